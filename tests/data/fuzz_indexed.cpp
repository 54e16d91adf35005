// Any bytes as .idx and .bin, opened and read to the end: refused with InputError, or read without a fault.
// The input is cut in two by its first two bytes.
#include "base/error.h"
#include "data/indexed.h"
#include "folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  using namespace weft::data;
  static const Folder folder;
  if (size < 2) return 0;
  const std::string_view all(reinterpret_cast<const char*>(bytes) + 2, size - 2);
  const size_t cut = std::min<size_t>(all.size(), bytes[0] | bytes[1] << 8);
  folder.write("f.idx", all.substr(0, cut));
  folder.write("f.bin", all.substr(cut));
  try {
    const IndexedTokens set = IndexedTokens::open(folder / "f");
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < set.sequences(); ++i) {
      ids.resize(static_cast<size_t>(set.length(i)));
      set.read(i, 0, set.length(i), ids.data());
      set.sequence_at(set.begin(i));
    }
    set.max_token();
  } catch (const InputError&) {
  }
  return 0;
}
