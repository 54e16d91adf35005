# cuDNN's front end (headers of the wheel that tools/wheels.txt names) and cuDNN's own headers, for the one source that uses them. The
# library is loaded at run time. Without either the candidate says so when it is asked.
set(WEFT_CUDNN_FRONTEND "" CACHE PATH "folder that holds include/cudnn_frontend.h")
if(DEFINED ENV{WEFT_HOME})
  set(home $ENV{WEFT_HOME})
else()
  set(home $ENV{HOME}/.cache/weft)
endif()
file(STRINGS ${CMAKE_SOURCE_DIR}/tools/wheels.txt line REGEX "^nvidia-cudnn-frontend==")
string(REPLACE "nvidia-cudnn-frontend==" "" version "${line}")
find_path(WEFT_CUDNN_FRONTEND_HEADERS cudnn_frontend.h NO_DEFAULT_PATH
          PATHS ${WEFT_CUDNN_FRONTEND}/include ${home}/cudnn-frontend-${version}/include ${WEFT_TORCH}/../include)
find_path(WEFT_CUDNN_HEADERS cudnn.h PATHS ${WEFT_TORCH}/../nvidia/cudnn/include)
if(WEFT_CUDNN_FRONTEND_HEADERS AND WEFT_CUDNN_HEADERS)
  message(STATUS "cuDNN front end ${version}: ${WEFT_CUDNN_FRONTEND_HEADERS}")
else()
  message(WARNING "no cuDNN front end: attention runs on own kernels only. Try: ./weft (it installs tools/wheels.txt), or -DWEFT_CUDNN_FRONTEND=DIR")
endif()

# -O1: 25 s instead of minutes, and nothing in it is hot but the launch.
function(weft_use_cudnn source)
  if(WEFT_CUDNN_FRONTEND_HEADERS AND WEFT_CUDNN_HEADERS)
    set_source_files_properties(${source} PROPERTIES COMPILE_DEFINITIONS WEFT_CUDNN_FRONTEND=1 COMPILE_OPTIONS
      "-O1;-isystem;${WEFT_CUDNN_FRONTEND_HEADERS};-isystem;${WEFT_CUDNN_HEADERS};-isystem;${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES}")
  endif()
endfunction()
