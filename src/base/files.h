// Whole files, atomic writes, locks, maps and disk space. A reader's fault is InputError (65), storage's is IoError (74).
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weft {

std::string read_file(const std::string& path);  // InputError when missing or unreadable
void write_file_atomic(const std::string& path, std::string_view content);  // a device or pipe is written to as it is
void append_file(const std::string& path, std::string_view content);  // one write call: lines do not interleave

// Writes PATH.tmp beside the target; commit() makes it durable (fsync), then visible (rename, fsync of the folder).
// Without commit() the destructor removes the temporary file. Throws IoError with the path and the free space; never
// replaces what is not a regular file. A symbolic link stays: what it points to is replaced.
class FileWriter {
 public:
  explicit FileWriter(std::string path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;
  void write(std::string_view bytes);
  void write(std::span<const std::byte> bytes) { write({reinterpret_cast<const char*>(bytes.data()), bytes.size()}); }
  uint64_t size() const { return size_; }
  void commit();

 private:
  void flush();
  std::string path_, buffer_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

void sync_folder(const std::string& folder);               // makes renames in it durable
void rename_durable(const std::string& from, const std::string& to);
void make_folders(const std::string& path);                // IoError
uint64_t free_disk(const std::string& path);               // bytes for this user at the nearest folder that exists

// Holds PATH exclusively until destroyed. The file stays; the kernel drops the lock when the process dies.
class FileLock {
 public:
  // nullptr when another process has it; `holder` then gets what that process wrote (its pid).
  static std::unique_ptr<FileLock> try_take(const std::string& path, std::string* holder = nullptr);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int fd) : fd_(fd) {}
  int fd_;
};

class MappedFile {  // read only, whole; InputError when missing. An empty file is an empty span.
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
  MappedFile& operator=(MappedFile&&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace weft
