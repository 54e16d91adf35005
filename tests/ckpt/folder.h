// A fresh folder that is removed with its content.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <string>

namespace weft {

struct TempFolder {
  std::string path;
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "weft-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace weft
