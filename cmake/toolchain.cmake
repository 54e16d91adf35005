# Compiler flags, sanitizers, ccache and the CUDA language.

find_program(WEFT_CCACHE ccache)
if(WEFT_CCACHE)
  # A precompiled header defeats ccache unless these two are told not to matter.
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime CCACHE_NOHASHDIR=1
               CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} ${WEFT_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${launcher})
endif()

add_library(weft_flags INTERFACE)
target_compile_options(weft_flags INTERFACE
  # g++ 12 sees out-of-bounds accesses in inlined std::string functions that are not there (its bugs 105329, 105651).
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-missing-field-initializers -Wno-array-bounds -Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread -fopenmp-simd>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${WEFT_WERROR}>>:-Werror>)
target_include_directories(weft_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
find_package(Threads REQUIRED)
target_link_libraries(weft_flags INTERFACE Threads::Threads)

if(WEFT_SANITIZE STREQUAL "address")
  target_compile_options(weft_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1>)
  target_link_options(weft_flags INTERFACE -fsanitize=address,undefined)
elseif(WEFT_SANITIZE STREQUAL "thread")
  target_compile_options(weft_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=thread -g1>)
  target_link_options(weft_flags INTERFACE -fsanitize=thread)
elseif(NOT WEFT_SANITIZE STREQUAL "")
  message(FATAL_ERROR "WEFT_SANITIZE: got '${WEFT_SANITIZE}', want address, thread or nothing")
endif()

# -- CUDA ---------------------------------------------------------------------
set(WEFT_HAVE_CUDA OFF)
if(NOT WEFT_CUDA STREQUAL "off" AND WEFT_SANITIZE STREQUAL "")
  find_program(WEFT_NVCC nvcc PATHS /usr/local/cuda/bin)
  if(WEFT_NVCC)
    set(CMAKE_CUDA_COMPILER ${WEFT_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES 90a)
    enable_language(CUDA)
    # CMake 3.25.1 does not know CUDA C++20: tell it the flag.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_FLAGS_RELEASE "-O3")
    set(WEFT_HAVE_CUDA ON)
    target_compile_definitions(weft_flags INTERFACE WEFT_CUDA=1)
    target_compile_options(weft_flags INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-Wall>)
  elseif(WEFT_CUDA STREQUAL "on")
    message(FATAL_ERROR "WEFT_CUDA=on, but no nvcc was found on PATH or in /usr/local/cuda/bin")
  endif()
endif()
