#include "data/source.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "base/error.h"

namespace weft::data {
namespace {

constexpr int64_t kChunk = int64_t{1} << 18;

class PlainSource final : public ByteSource {
 public:
  PlainSource(const std::string& path, int64_t skip) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) throw InputError("open '" + path + "': " + std::strerror(errno));
    if (skip > 0) ::lseek(fd_, skip, SEEK_SET);
    ::posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);
  }
  ~PlainSource() override { ::close(fd_); }
  int64_t read(char* out, int64_t count) override {
    for (;;) {
      ssize_t n = ::read(fd_, out, static_cast<size_t>(count));
      if (n >= 0) return n;
      if (errno != EINTR) throw InputError("read '" + path_ + "': " + std::strerror(errno));
    }
  }

 private:
  std::string path_;
  int fd_;
};

class GzipSource final : public ByteSource {
 public:
  explicit GzipSource(const std::string& path) : path_(path), file_(path, 0), in_(kChunk) {
    if (inflateInit2(&z_, 15 + 16) != Z_OK) throw OutOfMemoryError("gzip '" + path + "': no memory for the decoder");
  }
  ~GzipSource() override { inflateEnd(&z_); }
  int64_t read(char* out, int64_t count) override {
    z_.next_out = reinterpret_cast<Bytef*>(out);
    z_.avail_out = static_cast<uInt>(std::min<int64_t>(count, 1 << 30));
    const int64_t want = z_.avail_out;
    while (z_.avail_out == want) {
      if (z_.avail_in == 0) {
        const int64_t n = file_.read(in_.data(), kChunk);
        read_ += n;
        if (n == 0) {
          if (inside_) throw InputError("gzip '" + path_ + "': the file is cut off after " + std::to_string(read_) + " bytes");
          return 0;
        }
        z_.next_in = reinterpret_cast<Bytef*>(in_.data());
        z_.avail_in = static_cast<uInt>(n);
      }
      inside_ = true;
      const int code = inflate(&z_, Z_NO_FLUSH);
      if (code == Z_STREAM_END) {
        inside_ = false;
        inflateReset(&z_);
      } else if (code != Z_OK && code != Z_BUF_ERROR) {
        throw InputError("gzip '" + path_ + "': damaged near byte " + std::to_string(read_ - z_.avail_in) + ": " + (z_.msg ? z_.msg : "bad stream"));
      }
    }
    return want - z_.avail_out;
  }

 private:
  std::string path_;
  PlainSource file_;
  std::vector<char> in_;
  z_stream z_{};
  int64_t read_ = 0;
  bool inside_ = true;  // an empty file is no gzip file
};

class ZstdSource final : public ByteSource {
 public:
  explicit ZstdSource(const std::string& path) : path_(path), file_(path, 0), in_(kChunk), stream_(ZSTD_createDStream()) {
    if (stream_ == nullptr) throw OutOfMemoryError("zstd '" + path + "': no memory for the decoder");
    ZSTD_DCtx_setParameter(stream_, ZSTD_d_windowLogMax, 27);  // 128 MiB: a frame cannot ask for more memory
  }
  ~ZstdSource() override { ZSTD_freeDStream(stream_); }
  int64_t read(char* out, int64_t count) override {
    ZSTD_outBuffer to{out, static_cast<size_t>(count), 0};
    while (to.pos == 0) {
      if (from_.pos == from_.size) {
        const int64_t n = file_.read(in_.data(), kChunk);
        if (n == 0 && !flushing_) {
          if (inside_) throw InputError("zstd '" + path_ + "': the file is cut off after " + std::to_string(read_) + " bytes");
          return 0;
        }
        read_ += n;
        from_ = {in_.data(), static_cast<size_t>(n), 0};
      }
      const size_t code = ZSTD_decompressStream(stream_, &to, &from_);
      if (ZSTD_isError(code)) throw InputError("zstd '" + path_ + "': damaged near byte " + std::to_string(read_ - static_cast<int64_t>(from_.size - from_.pos)) + ": " + ZSTD_getErrorName(code));
      inside_ = code != 0;
      flushing_ = inside_ && to.pos == to.size;  // the decoder may hold more output than there was room for
    }
    return static_cast<int64_t>(to.pos);
  }

 private:
  std::string path_;
  PlainSource file_;
  std::vector<char> in_;
  ZSTD_DStream* stream_;
  ZSTD_inBuffer from_{nullptr, 0, 0};
  int64_t read_ = 0;
  bool inside_ = true, flushing_ = false;
};

}  // namespace

Packed packed_by_name(const std::string& path) {
  if (path.ends_with(".gz")) return Packed::kGzip;
  if (path.ends_with(".zst")) return Packed::kZstd;
  return Packed::kPlain;
}

std::unique_ptr<ByteSource> open_source(const std::string& path, Packed packed, int64_t skip) {
  if (packed == Packed::kPlain) return std::make_unique<PlainSource>(path, skip);
  std::unique_ptr<ByteSource> source;
  if (packed == Packed::kGzip) source = std::make_unique<GzipSource>(path);
  else source = std::make_unique<ZstdSource>(path);
  std::vector<char> sink(static_cast<size_t>(std::min(skip, kChunk)));
  while (skip > 0) {
    const int64_t n = source->read(sink.data(), std::min(skip, kChunk));
    if (n == 0) throw InputError("read '" + path + "': the file is shorter than its record");
    skip -= n;
  }
  return source;
}

}  // namespace weft::data
