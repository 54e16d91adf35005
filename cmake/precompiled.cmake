# Precompiled headers: one set for sources without torch (weft_pch) and one with it (weft_aten_pch), and the same for tests
# (weft_test_pch, weft_aten_test_pch: tests/CMakeLists.txt). Targets that share one are built with the same flags.
set(weft_common_headers <algorithm> <filesystem> <fstream> <functional> <map> <memory> <optional> <span> <string> <variant> <vector>
    <nlohmann/json.hpp> <fmt/format.h>)

# weft_precompiled(NAME HEADERS a.h <b> ... [USES libraries] [OPTIONS flags])
function(weft_precompiled name)
  cmake_parse_arguments(A "" "" "HEADERS;USES;OPTIONS" ${ARGN})
  file(WRITE ${CMAKE_BINARY_DIR}/${name}.cpp "// holds the precompiled header\n")
  add_library(${name} OBJECT ${CMAKE_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE weft_flags ${A_USES})
  target_compile_options(${name} PRIVATE ${A_OPTIONS})
  target_precompile_headers(${name} PRIVATE ${A_HEADERS})
endfunction()

# weft_reuse_pch(TARGET weft_pch|weft_test_pch TORCH): TORCH true takes the set with torch.
function(weft_reuse_pch name set torch)
  if(torch)
    string(REPLACE "weft_" "weft_aten_" set ${set})
  endif()
  target_precompile_headers(${name} REUSE_FROM ${set})
endfunction()

weft_precompiled(weft_pch HEADERS ${weft_common_headers})
