# One CMake library a folder. The link line is the floor: a folder sees only what it names.

# weft_library(NAME SOURCES a.cpp ... [CUDA_SOURCES a.cu ...] [USES weft_base ...] [TORCH])
function(weft_library name)
  cmake_parse_arguments(A "TORCH" "" "SOURCES;CUDA_SOURCES;USES" ${ARGN})
  if(WEFT_HAVE_CUDA)
    list(APPEND A_SOURCES ${A_CUDA_SOURCES})
  endif()
  if(A_SOURCES)
    add_library(${name} STATIC ${A_SOURCES})
    set(scope PUBLIC)
  else()
    add_library(${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_link_libraries(${name} ${scope} weft_flags ${A_USES})
  if(A_TORCH)
    target_link_libraries(${name} ${scope} weft_torch)
  endif()
  if(A_SOURCES AND NOT A_CUDA_SOURCES)
    weft_reuse_pch(${name} weft_pch ${A_TORCH})
  endif()
endfunction()

# weft_test(NAME SOURCES a_test.cpp ... USES weft_ops ...): one GoogleTest program a folder, each TEST a ctest entry.
function(weft_test name)
  cmake_parse_arguments(A "TORCH" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE ${A_USES} gtest gtest_main)
  target_compile_definitions(${name} PRIVATE WEFT_SOURCE_DIR="${CMAKE_SOURCE_DIR}" WEFT_BINARY_DIR="${CMAKE_BINARY_DIR}")
  if(A_TORCH)
    target_link_libraries(${name} PRIVATE weft_torch)
  endif()
  # Most of a test's time is the compiler's; what it tests stays at -O2. With little inlining, and under sanitizers, GCC takes the
  # checks of an empty std::optional or std::function for reads of it.
  target_compile_options(${name} PRIVATE -O1 -Wno-maybe-uninitialized)
  weft_reuse_pch(${name} weft_test_pch ${A_TORCH})
  # Listing loads libtorch; from a cold disk that has taken longer than the five seconds allowed by default.
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 300 PROPERTIES TIMEOUT 600)
endfunction()

# weft_oracle_test(NAME script.py arguments...): a comparison with Python packages, on $WEFT_ORACLES, the Python that `./weft test`
# sets up (tools/oracles.txt). Code 77 is a skip; the script says on a line "skipped: ..." what is missing.
function(weft_oracle_test name script)
  add_test(NAME ${name} COMMAND sh -c "exec \"\${WEFT_ORACLES:-python3}\" -W ignore \"$@\"" sh ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${ARGN})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
endfunction()

# weft_fuzz_test(NAME target.cpp RUNS SEEDS files of seeds/ USES ...): a libFuzzer target, and a short run of it as a test, on the
# driver of tests/fuzz/fuzz_main.cpp (with clang, link -fsanitize=fuzzer instead of it).
function(weft_fuzz_test name source runs)
  cmake_parse_arguments(A "" "" "SEEDS;USES" ${ARGN})
  get_filename_component(program ${source} NAME_WE)
  add_executable(${program} ${source} ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz_main.cpp)
  target_link_libraries(${program} PRIVATE ${A_USES})
  weft_reuse_pch(${program} weft_pch FALSE)
  list(TRANSFORM A_SEEDS PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/seeds/)
  add_test(NAME ${name} COMMAND ${program} ${runs} ${A_SEEDS})
endfunction()
