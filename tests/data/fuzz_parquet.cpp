// Any bytes as a Parquet file: refused with InputError, or rows that are objects, no more than it says.
#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "data/parquet_rows.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace weft;
  const std::string path = "fuzz_parquet.tmp";
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes), static_cast<std::streamsize>(size));
  try {
    data::ParquetRows rows(path, {"text", "messages", "n"});
    std::string line;
    for (int64_t i = 0; rows.next(line); ++i) {
      if (i >= rows.rows()) std::abort();
      if (line.front() != '{' || line.back() != '}') std::abort();
    }
  } catch (const InputError&) {
  }
  return 0;
}
