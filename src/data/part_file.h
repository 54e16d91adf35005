// Files that grow over a long run: written under a temporary name, cut back to a mark on resume, renamed when complete.
// And what tells one content of a path from another without reading it.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weft::data {

class PartFile {  // buffered; IoError on any failure, naming the path and the reason
 public:
  PartFile() = default;
  // Opens for writing and cuts to `keep_bytes` (0: empty). InputError when the file is shorter than that.
  PartFile(std::string path, int64_t keep_bytes);
  PartFile(PartFile&& other) noexcept;
  PartFile& operator=(PartFile&& other) noexcept;
  ~PartFile();  // closes; what was not flushed is lost
  void write(const void* bytes, size_t count);
  void flush();                                  // to the kernel
  void sync();                                   // to the disk
  void close_as(const std::string& final_path);  // sync, close, rename durably
  void discard();                                // close and remove
  int64_t size() const { return size_; }         // bytes written so far, buffered ones included
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
  std::vector<char> buffer_;
};

struct FileStamp {
  int64_t bytes = -1, mtime_ns = 0;
  bool operator==(const FileStamp&) const = default;
};
FileStamp stamp_of(const std::string& path);  // bytes = -1 when there is no such file

void expect_random(std::span<const std::byte> map);                                 // no read-ahead for a mapped file
void drop_pages(std::span<const std::byte> map, int64_t begin, int64_t end);        // not needed again soon

}  // namespace weft::data
