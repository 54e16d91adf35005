#include "base/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/text.h"

namespace weft {
namespace fs = std::filesystem;
namespace {

constexpr size_t kBufferBytes = 1 << 20;

[[noreturn]] void fail_write(const std::string& path, const char* what, int error) {
  std::string text = fmt::format("{}: {} failed: {}", path, what, std::strerror(error));
  if (error == ENOSPC || error == EDQUOT || error == EFBIG)
    text += fmt::format(" ({} free)\n  try: free some space, or write to another disk", human_bytes(free_disk(path)));
  throw IoError(text);
}

[[noreturn]] void fail_read(const std::string& path, int error) {
  if (error == EIO) throw IoError(fmt::format("{}: reading failed: {}", path, std::strerror(error)));
  throw InputError(fmt::format("{}: cannot be read: {}", path, std::strerror(error)));
}

void write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_write(path, "writing", errno);
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

struct Descriptor {  // closes itself
  int fd;
  ~Descriptor() { if (fd >= 0) ::close(fd); }
};

}  // namespace

std::string read_file(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail_read(path, errno);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail_read(path, errno);
  if (S_ISDIR(info.st_mode)) fail_read(path, EISDIR);
  std::string out;
  out.reserve(static_cast<size_t>(info.st_size));
  char chunk[1 << 16];
  for (;;) {
    const ssize_t n = ::read(file.fd, chunk, sizeof chunk);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_read(path, errno);
    if (n == 0) return out;
    out.append(chunk, static_cast<size_t>(n));
  }
}

void write_file_atomic(const std::string& path, std::string_view content) {
  std::error_code error;
  const fs::file_status there = fs::status(path, error);
  if (fs::exists(there) && !fs::is_regular_file(there) && !fs::is_directory(there)) return append_file(path, content);
  FileWriter writer(path);
  writer.write(content);
  writer.commit();
}

void append_file(const std::string& path, std::string_view content) {
  const Descriptor file{::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)};
  if (file.fd < 0) fail_write(path, "opening", errno);
  write_all(file.fd, content, path);
}

FileWriter::FileWriter(std::string path) : path_(std::move(path)) {
  std::error_code error;
  if (fs::is_symlink(path_, error)) path_ = fs::weakly_canonical(path_, error).string();  // the rename is to replace what it points to
  const fs::file_status there = fs::status(path_, error);
  if (fs::exists(there) && !fs::is_regular_file(there)) fail_write(path_, "opening as a regular file", fs::is_directory(there) ? EISDIR : EINVAL);
  fd_ = ::open((path_ + ".tmp").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail_write(path_ + ".tmp", "opening", errno);
}

FileWriter::~FileWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink((path_ + ".tmp").c_str());
}

void FileWriter::write(std::string_view bytes) {
  size_ += bytes.size();
  if (buffer_.size() + bytes.size() < kBufferBytes) {
    buffer_.append(bytes);
    return;
  }
  flush();
  if (bytes.size() < kBufferBytes) buffer_.append(bytes);
  else write_all(fd_, bytes, path_);
}

void FileWriter::flush() {
  write_all(fd_, buffer_, path_);
  buffer_.clear();
}

void FileWriter::commit() {
  flush();
  if (::fsync(fd_) != 0) fail_write(path_, "fsync", errno);
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) {
    const int error = errno;
    ::unlink((path_ + ".tmp").c_str());
    fail_write(path_, "closing", error);
  }
  rename_durable(path_ + ".tmp", path_);
}

void sync_folder(const std::string& folder) {
  const Descriptor dir{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (dir.fd < 0) fail_write(folder, "opening the folder", errno);
  if (::fsync(dir.fd) != 0 && errno != EINVAL) fail_write(folder, "fsync of the folder", errno);  // EINVAL: the file system has none
}

void rename_durable(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_write(to, "renaming", errno);
  sync_folder(folder_of(to));
}

void make_folders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail_write(path, "making the folder", error.value());
}

uint64_t free_disk(const std::string& path) {
  std::error_code error;
  fs::path at = fs::absolute(path, error);
  while (!at.empty() && !fs::exists(at, error) && at != at.root_path()) at = at.parent_path();
  struct statvfs info {};
  if (::statvfs(at.c_str(), &info) != 0) return 0;
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

std::unique_ptr<FileLock> FileLock::try_take(const std::string& path, std::string* holder) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail_write(path, "opening the lock", errno);
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (holder != nullptr) {
      char text[64] = {};
      const ssize_t n = ::pread(fd, text, sizeof text - 1, 0);
      *holder = std::string(trim({text, n > 0 ? static_cast<size_t>(n) : 0}));
    }
    ::close(fd);
    if (error != EWOULDBLOCK) fail_write(path, "locking", error);
    return nullptr;
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) < 0) {
    const int error = errno;
    ::close(fd);
    fail_write(path, "writing the lock", error);
  }
  return std::unique_ptr<FileLock>(new FileLock(fd));
}

FileLock::~FileLock() { ::close(fd_); }

MappedFile::MappedFile(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail_read(path, errno);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail_read(path, errno);
  if (!S_ISREG(info.st_mode)) throw InputError(path + ": cannot be read: not a regular file");
  size_ = static_cast<size_t>(info.st_size);
  if (size_ == 0) return;
  void* at = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.fd, 0);
  if (at == MAP_FAILED) fail_read(path, errno);
  data_ = static_cast<const std::byte*>(at);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace weft
