# Finds CUDA as SPOTD_CUDA (AUTO, ON, OFF) asks and sets SPOTD_CUDA_ENABLED.
#
# One binary serves machines with and without a GPU: the CUDA runtime is linked statically and cuBLASLt is loaded when the
# backend opens.

include(CheckLanguage)

set(SPOTD_CUDA_ENABLED OFF)
if(NOT SPOTD_CUDA STREQUAL "OFF")
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    # Every kernel for sm_80 and, as PTX, later devices; wgmma and its like only exist for sm_90a.
    set(CMAKE_CUDA_ARCHITECTURES 80 90a-real)
    enable_language(CUDA)
    # CUDA 13 has no nvToolsExt, but for projects of 3.25 CMake 3.25 marks it as deprecated without looking whether it is there.
    set(spotd_minimum "${CMAKE_MINIMUM_REQUIRED_VERSION}")
    set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_MINIMUM_REQUIRED_VERSION "${spotd_minimum}")
    set(SPOTD_CUDA_ENABLED ON)
  elseif(SPOTD_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SPOTD_CUDA=ON, but no CUDA compiler was found (set CUDACXX or put nvcc on the PATH)")
  endif()
endif()
message(STATUS "CUDA backend: ${SPOTD_CUDA_ENABLED}")

if(SPOTD_CUDA_ENABLED)
  # CMake 3.25 does not know that nvcc takes C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
endif()
