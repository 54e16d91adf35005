#include "data/rows.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "data/part_file.h"
#include "data/prepare_state.h"
#include "data/source.h"

namespace weft::data {
namespace {

// Side file: "WEFTROW1" | u64 bytes of the file | i64 its time in ns | u64 rows | u64 XXH3-64 of the offsets | u64 offset of each row.
constexpr char kMagic[8] = {'W', 'E', 'F', 'T', 'R', 'O', 'W', '1'};
constexpr size_t kHead = 40;

std::vector<uint64_t> find_rows(std::string_view text) {
  std::vector<uint64_t> out;
  for (size_t at = 0; at < text.size();) {
    const void* stop = std::memchr(text.data() + at, '\n', text.size() - at);
    const size_t end = stop == nullptr ? text.size() : static_cast<size_t>(static_cast<const char*>(stop) - text.data());
    if (text.substr(at, end - at).find_first_not_of(" \t\r") != std::string_view::npos) out.push_back(at);
    at = end + 1;
  }
  return out;
}

bool side_fits(std::string_view side, const FileStamp& stamp) {
  if (side.size() < kHead || std::memcmp(side.data(), kMagic, 8) != 0) return false;
  int64_t head[4];
  std::memcpy(head, side.data() + 8, 32);
  return head[0] == stamp.bytes && head[1] == stamp.mtime_ns && side.size() == kHead + 8 * static_cast<size_t>(head[2]) &&
         static_cast<uint64_t>(head[3]) == XXH3_64bits(side.data() + kHead, side.size() - kHead);
}

}  // namespace

Rows::Rows(const std::vector<std::string>& files) : starts_{0} {
  std::string all;
  for (const std::string& path : files) {
    if (packed_by_name(path) != Packed::kPlain) throw InputError("rows '" + path + "': a packed file has no rows by number\ntry: unpack it, or weft prepare");
    File f;
    f.path = path;
    f.text = std::make_shared<const MappedFile>(path);
    const FileStamp stamp = stamp_of(path);
    all += path + "\t" + std::to_string(stamp.bytes) + "\t" + std::to_string(stamp.mtime_ns) + "\n";
    const std::string side_path = path + ".rows";
    size_t count = 0;
    if (std::filesystem::exists(side_path)) {
      f.side = std::make_shared<const MappedFile>(side_path);
      if (side_fits(f.side->text(), stamp)) {
        f.offsets = reinterpret_cast<const uint64_t*>(f.side->text().data() + kHead);
        count = (f.side->text().size() - kHead) / 8;
      }
    }
    if (f.offsets == nullptr) {
      f.side = nullptr;
      f.own = find_rows(f.text->text());
      f.offsets = f.own.data();
      count = f.own.size();
      const int64_t head[4] = {stamp.bytes, stamp.mtime_ns, static_cast<int64_t>(count), static_cast<int64_t>(XXH3_64bits(f.own.data(), 8 * count))};
      std::string side(kMagic, 8);
      side.append(reinterpret_cast<const char*>(head), 32).append(reinterpret_cast<const char*>(f.own.data()), 8 * count);
      try {
        write_file_atomic(side_path, side);
      } catch (const IoError&) {  // a read-only folder: found again next time
      }
    }
    starts_.push_back(starts_.back() + static_cast<int64_t>(count));
    files_.push_back(std::move(f));
    files_.back().offsets = files_.back().side ? files_.back().offsets : files_.back().own.data();
  }
  if (size() == 0) throw InputError("rows: empty: no line in " + std::to_string(files.size()) + " files");
  identity_ = hex_hash(all);
}

size_t Rows::file_of(int64_t row) const {
  if (row < 0 || row >= size()) throw InputError("rows: got row " + std::to_string(row) + ", want below " + std::to_string(size()));
  return static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), row) - starts_.begin()) - 1;
}

std::string_view Rows::line(int64_t row) const {
  const File& f = files_[file_of(row)];
  const std::string_view text = f.text->text();
  const size_t begin = f.offsets[row - starts_[file_of(row)]];
  if (begin >= text.size()) throw InputError("rows '" + f.path + ".rows': offset beyond the file");
  std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  if (begin == 0 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

std::string Rows::where(int64_t row) const { return "'" + files_[file_of(row)].path + "' row " + std::to_string(row - starts_[file_of(row)] + 1); }

}  // namespace weft::data
