#include "data/part_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/files.h"

namespace weft::data {
namespace {
std::string reason() { return std::strerror(errno); }
}  // namespace

PartFile::PartFile(std::string path, int64_t keep_bytes) : path_(std::move(path)), size_(keep_bytes) {
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | (keep_bytes == 0 ? O_TRUNC : 0), 0644);
  if (fd_ < 0) throw IoError("create '" + path_ + "': " + reason());
  if (keep_bytes > 0) {
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || info.st_size < keep_bytes) {
      ::close(std::exchange(fd_, -1));
      throw InputError("continue '" + path_ + "': the file is shorter than its record: got " + std::to_string(info.st_size) +
                       " bytes, want " + std::to_string(keep_bytes));
    }
    if (::ftruncate(fd_, keep_bytes) != 0 || ::lseek(fd_, 0, SEEK_END) < 0) {
      std::string why = reason();
      ::close(std::exchange(fd_, -1));
      throw IoError("continue '" + path_ + "': " + why);
    }
  }
  buffer_.reserve(size_t{1} << 20);
}

PartFile::PartFile(PartFile&& other) noexcept { *this = std::move(other); }
PartFile& PartFile::operator=(PartFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(buffer_, other.buffer_);
  return *this;
}

PartFile::~PartFile() {
  if (fd_ >= 0) ::close(fd_);
}

void PartFile::write(const void* bytes, size_t count) {
  const char* from = static_cast<const char*>(bytes);
  size_ += static_cast<int64_t>(count);
  while (count > 0) {
    if (buffer_.size() == buffer_.capacity()) flush();
    size_t n = std::min(count, buffer_.capacity() - buffer_.size());
    buffer_.insert(buffer_.end(), from, from + n);
    from += n;
    count -= n;
  }
}

void PartFile::flush() {
  size_t done = 0;
  while (done < buffer_.size()) {
    ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw IoError("write '" + path_ + "': " + reason() + " after " + std::to_string(size_ - static_cast<int64_t>(buffer_.size() - done)) + " bytes");
    done += static_cast<size_t>(n);
  }
  buffer_.clear();
}

void PartFile::sync() {
  flush();
  if (::fsync(fd_) != 0) throw IoError("sync '" + path_ + "': " + reason());
}

void PartFile::close_as(const std::string& final_path) {
  sync();
  int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) throw IoError("close '" + path_ + "': " + reason());
  rename_durable(path_, final_path);
}

void PartFile::discard() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  ::unlink(path_.c_str());
}

FileStamp stamp_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return {};
  return {info.st_size, info.st_mtim.tv_sec * int64_t{1000000000} + info.st_mtim.tv_nsec};
}

void expect_random(std::span<const std::byte> map) {
  if (!map.empty()) ::madvise(const_cast<std::byte*>(map.data()), map.size(), MADV_RANDOM);
}

void drop_pages(std::span<const std::byte> map, int64_t begin, int64_t end) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  begin = (begin + page - 1) / page * page;
  end = end / page * page;
  if (end > begin) ::madvise(const_cast<std::byte*>(map.data()) + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

}  // namespace weft::data
