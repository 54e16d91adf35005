#include "data/corpus.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "data/part_file.h"

namespace weft::data {
namespace fs = std::filesystem;
namespace {

Format format_of(const std::string& path) {
  if (path.ends_with(".parquet")) return Format::kParquet;
  std::string name = path;
  for (const char* packed : {".gz", ".zst"}) {
    if (name.ends_with(packed)) name.resize(name.size() - std::strlen(packed));
  }
  return name.ends_with(".jsonl") || name.ends_with(".ndjson") ? Format::kJsonl : Format::kText;
}

bool looks_binary(const std::string& path, Packed packed) {
  char head[8192];
  const int64_t n = open_source(path, packed)->read(head, sizeof head);
  return std::memchr(head, 0, static_cast<size_t>(n)) != nullptr;
}

void walk(const fs::path& root, const std::string& except, Corpus& out, std::vector<std::string>& found) {
  std::error_code error;
  fs::recursive_directory_iterator it(root, error), end;
  if (error) throw InputError("open folder '" + root.string() + "': " + error.message());
  for (; it != end; it.increment(error)) {
    const fs::path& path = it->path();
    const std::string name = path.filename().string();
    const bool folder = it->is_directory(error) && !it->is_symlink(error);
    const char* why = nullptr;
    if (name.starts_with('.')) why = "hidden";
    else if (it->is_symlink(error)) why = "symbolic link";
    else if (folder && !except.empty() && fs::equivalent(path, except, error)) why = "output folder";
    else if (!folder && !it->is_regular_file(error)) why = "not a regular file";
    if (why != nullptr) {
      ++out.skipped[why];
      if (folder) it.disable_recursion_pending();
    } else if (!folder) {
      found.push_back(path.string());
    }
  }
  if (error) throw InputError("read folder '" + root.string() + "': " + error.message());
}

bool letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// A place where byte-level pre-tokenizers always cut: before a single space between two ASCII letters. 0 when there is none.
size_t last_safe_cut(std::string_view text) {
  for (size_t i = text.size() < 2 ? 0 : text.size() - 2; i > 0; --i) {
    if (text[i] == ' ' && letter(text[i - 1]) && letter(text[i + 1])) return i;
  }
  return 0;
}

size_t last_character_boundary(std::string_view text) {
  size_t i = text.size() - 1;
  for (int k = 0; k < 3 && i > 0 && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80; ++k) --i;
  return i == 0 ? text.size() : i;
}

// Where the last `1/every` of a text begins: after the first line end behind that point, or at the point itself in a very long line.
int64_t part_cut(const CorpusFile& file, int64_t every) {
  std::vector<char> chunk(1 << 18);
  int64_t size = file.bytes;
  if (file.packed != Packed::kPlain) {
    auto source = open_source(file.path, file.packed);
    size = 0;
    for (int64_t n; (n = source->read(chunk.data(), static_cast<int64_t>(chunk.size()))) > 0;) size += n;
  }
  const int64_t point = size - size / every;
  auto source = open_source(file.path, file.packed, point);
  int64_t n = 0;
  while (n < static_cast<int64_t>(chunk.size())) {
    const int64_t got = source->read(chunk.data() + n, static_cast<int64_t>(chunk.size()) - n);
    if (got == 0) break;
    n += got;
  }
  const char* line_end = static_cast<const char*>(std::memchr(chunk.data(), '\n', static_cast<size_t>(n)));
  if (line_end != nullptr && point + (line_end - chunk.data()) + 1 < size) return point + (line_end - chunk.data()) + 1;
  int64_t i = 0;
  while (i < n && (static_cast<unsigned char>(chunk[static_cast<size_t>(i)]) & 0xC0) == 0x80) ++i;
  return point + i;
}

}  // namespace

Corpus list_corpus(const std::vector<std::string>& inputs, const std::string& except) {
  Corpus out;
  std::set<std::string> seen;
  for (const std::string& input : inputs) {
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!fs::exists(status)) throw InputError("prepare: no such file or folder: got '" + input + "'");
    std::vector<std::string> found;
    const bool tree = fs::is_directory(status);
    if (tree) {
      walk(input, except, out, found);
      std::sort(found.begin(), found.end());
    } else if (fs::is_regular_file(status)) {
      found.push_back(input);
    } else {
      throw InputError("prepare: got '" + input + "', want a regular file or a folder");
    }
    for (const std::string& path : found) {
      const FileStamp stamp = stamp_of(path);
      const Packed packed = packed_by_name(path);
      if (tree && stamp.bytes == 0) ++out.skipped["empty"];
      else if (tree && format_of(path) != Format::kParquet && looks_binary(path, packed)) ++out.skipped["binary"];
      else if (!seen.insert(fs::weakly_canonical(path, error).string()).second) ++out.skipped["listed twice"];
      else {
        out.files.push_back({path, format_of(path), packed, stamp.bytes, stamp.mtime_ns});
        out.bytes += stamp.bytes;
      }
    }
  }
  if (out.files.empty()) {
    std::string text = "prepare: empty corpus: no text file among the inputs";
    for (const auto& [why, count] : out.skipped) text += "; skipped as " + why + ": " + std::to_string(count);
    throw InputError(text);
  }
  return out;
}

HoldOut hold_out_of(const Corpus& corpus, int64_t every) {
  if (every <= 0) return HoldOut::kNone;
  return static_cast<int64_t>(corpus.files.size()) >= every ? HoldOut::kFiles : HoldOut::kParts;
}

CorpusReader::CorpusReader(const Corpus& corpus, const Options& options, Position from)
    : corpus_(corpus), options_(options), hold_out_(hold_out_of(corpus, options.hold_out_every)), at_(from) {}

void CorpusReader::open_file() {
  const CorpusFile& file = corpus_.files[static_cast<size_t>(at_.file)];
  if (const FileStamp now = stamp_of(file.path); now != FileStamp{file.bytes, file.mtime_ns}) {
    throw InputError("prepare: '" + file.path + "' changed while it was read: got " + std::to_string(now.bytes) + " bytes, want " + std::to_string(file.bytes));
  }
  buffer_.clear();
  file_ended_ = false;
  cut_ = -1;
  if (file.format == Format::kParquet) {
    rows_ = std::make_unique<ParquetRows>(file.path, options_.columns, at_.line);
    return;
  }
  source_ = open_source(file.path, file.packed, at_.offset);
  cut_ = hold_out_ == HoldOut::kParts && file.format == Format::kText ? part_cut(file, options_.hold_out_every) : -1;
}

void CorpusReader::fill(int64_t want) {
  while (!file_ended_ && static_cast<int64_t>(buffer_.size()) < want) {
    const size_t old = buffer_.size();
    buffer_.resize(static_cast<size_t>(want));
    const int64_t n = source_->read(buffer_.data() + old, want - static_cast<int64_t>(old));
    buffer_.resize(old + static_cast<size_t>(n));
    file_ended_ = n == 0;
  }
}

bool CorpusReader::next(Block& out) {
  while (at_.file < static_cast<int64_t>(corpus_.files.size())) {
    if (!source_ && !rows_) open_file();
    out = Block{};
    out.file = at_.file;
    out.first_line = at_.line;
    const Format format = corpus_.files[static_cast<size_t>(at_.file)].format;
    const bool some = format == Format::kText ? next_text(out) : format == Format::kJsonl ? next_lines(out) : next_rows(out);
    if (file_ended_ && buffer_.empty()) {  // the next block comes from the next file
      source_.reset(), rows_.reset();
      at_ = {at_.file + 1, 0, 0};
    }
    out.after = at_;
    if (some) return true;
  }
  return false;
}

bool CorpusReader::next_lines(Block& out) {
  int64_t want = options_.block_bytes;
  size_t end = 0;
  for (;; want *= 2) {
    fill(want + 1);
    if (buffer_.empty()) return false;
    end = buffer_.size();
    if (static_cast<int64_t>(end) <= want) break;
    end = buffer_.rfind('\n', static_cast<size_t>(want) - 1) + 1;  // npos + 1 is 0
    if (end > 0 || want > options_.max_line_bytes) break;
  }
  const size_t looked_at = end > 0 ? end : buffer_.size();
  for (size_t begin = 0, line = 0; begin < looked_at; ++line) {
    const size_t stop = std::min(buffer_.find('\n', begin), looked_at);
    if (static_cast<int64_t>(stop - begin) > options_.max_line_bytes) {
      line_too_long(at_.line + static_cast<int64_t>(line));
    }
    begin = stop + 1;
  }
  out.bytes.assign(buffer_, 0, end);
  buffer_.erase(0, end);
  at_.offset += static_cast<int64_t>(end);
  at_.line += std::count(out.bytes.begin(), out.bytes.end(), '\n') + (!out.bytes.ends_with('\n') ? 1 : 0);
  return true;
}

void CorpusReader::line_too_long(int64_t line) const {
  throw InputError("prepare: '" + corpus_.files[static_cast<size_t>(at_.file)].path + "' line " + std::to_string(line + 1) + ": the line is too long: got more than " +
                   std::to_string(options_.max_line_bytes) + " bytes\ntry: --max-line with more bytes, and --memory of at least 16 times that");
}

bool CorpusReader::next_rows(Block& out) {
  const CorpusFile& file = corpus_.files[static_cast<size_t>(at_.file)];
  std::string line;
  while (static_cast<int64_t>(out.bytes.size()) < options_.block_bytes) {
    if (!rows_->next(line)) {
      file_ended_ = true;
      break;
    }
    if (static_cast<int64_t>(line.size()) > options_.max_line_bytes) line_too_long(at_.line);
    out.bytes += line;
    out.bytes += '\n';
    ++at_.line;
  }
  at_.offset = rows_->rows() > 0 ? static_cast<int64_t>(static_cast<double>(file.bytes) * static_cast<double>(at_.line) / static_cast<double>(rows_->rows())) : 0;
  return !out.bytes.empty();
}

bool CorpusReader::next_text(Block& out) {
  const bool before_cut = at_.offset < cut_;
  out.begins = at_.offset == 0 || at_.offset == cut_;
  out.held_out = hold_out_ == HoldOut::kFiles ? at_.file % options_.hold_out_every == options_.hold_out_every - 1 : cut_ >= 0 && !before_cut;
  const int64_t room = before_cut ? cut_ - at_.offset : INT64_MAX;  // this document ends there
  int64_t want = options_.block_bytes;
  size_t end = 0;
  // Only the first `want` bytes are looked at, however much was read before: the cuts depend on the text alone.
  for (;; want *= 2) {
    fill(want + 1);
    const int64_t rest = std::min<int64_t>(room, static_cast<int64_t>(buffer_.size()));
    end = static_cast<size_t>(rest);
    if (rest <= want) break;
    out.ends = false;
    const std::string_view seen(buffer_.data(), static_cast<size_t>(want));
    end = last_safe_cut(seen);
    if (end == 0 && want >= 4 * options_.block_bytes) end = last_character_boundary(seen);
    if (end > 0) break;
    out.ends = true;
  }
  out.bytes.assign(buffer_, 0, end);
  buffer_.erase(0, end);
  at_.offset += static_cast<int64_t>(end);
  return true;
}

}  // namespace weft::data
