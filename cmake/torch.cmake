# An imported target of our own: find_package(Torch) would drag in Caffe2's CUDA detection.
if(NOT WEFT_TORCH)
  execute_process(COMMAND python3 -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
                  OUTPUT_VARIABLE WEFT_TORCH OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(NOT EXISTS "${WEFT_TORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "torch 2.11 not found: WEFT_TORCH='${WEFT_TORCH}' has no lib/libtorch_cpu.so. Try: ./weft (it sets WEFT_TORCH), or pass -DWEFT_TORCH=.../site-packages/torch")
endif()

add_library(weft_torch INTERFACE)
target_include_directories(weft_torch SYSTEM INTERFACE ${WEFT_TORCH}/include ${WEFT_TORCH}/include/torch/csrc/api/include)
target_compile_definitions(weft_torch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
# --disable-new-dtags: an RPATH is also searched for the libraries that torch's own libraries need.
target_link_options(weft_torch INTERFACE -Wl,--disable-new-dtags,-rpath,${WEFT_TORCH}/lib -Wl,--no-as-needed -Wl,--allow-shlib-undefined)
target_link_libraries(weft_torch INTERFACE ${WEFT_TORCH}/lib/libtorch_cpu.so ${WEFT_TORCH}/lib/libc10.so)
if(WEFT_HAVE_CUDA)
  if(NOT EXISTS "${WEFT_TORCH}/lib/libtorch_cuda.so")
    message(FATAL_ERROR "nvcc was found but ${WEFT_TORCH} is a CPU-only torch. Try: -DWEFT_CUDA=off")
  endif()
  target_include_directories(weft_torch SYSTEM INTERFACE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_link_libraries(weft_torch INTERFACE ${WEFT_TORCH}/lib/libtorch_cuda.so ${WEFT_TORCH}/lib/libc10_cuda.so)
  # The cuBLASLt that torch itself loads: one process holds one copy.
  get_filename_component(nvidia_libs ${WEFT_TORCH}/../nvidia/cu13/lib ABSOLUTE)
  find_library(WEFT_CUBLASLT NAMES libcublasLt.so.13 PATHS ${nvidia_libs} NO_DEFAULT_PATH)
  if(NOT WEFT_CUBLASLT)
    message(FATAL_ERROR "libcublasLt.so.13 not found in ${nvidia_libs}. Try: pip install nvidia-cublas, or -DWEFT_CUBLASLT=.../libcublasLt.so.13")
  endif()
  get_filename_component(cublaslt_folder ${WEFT_CUBLASLT} DIRECTORY)
  add_library(weft_cublaslt INTERFACE)
  target_link_libraries(weft_cublaslt INTERFACE ${WEFT_CUBLASLT})
  target_link_options(weft_cublaslt INTERFACE -Wl,--disable-new-dtags,-rpath,${cublaslt_folder})
endif()

# ops/aten.h: 20 s of a source become 2.
weft_precompiled(weft_aten_pch HEADERS ${CMAKE_SOURCE_DIR}/src/ops/aten.h ${weft_common_headers} USES weft_torch)
