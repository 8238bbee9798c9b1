# Everything comes from the distribution (Debian 12); nothing is downloaded during the build.

find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(hwy CONFIG REQUIRED)
find_package(nlohmann_json CONFIG REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

# oneDNN's CMake package insists on OpenCL, which the CPU engine does not use.
find_library(SPOTD_DNNL dnnl REQUIRED)
add_library(spotd_dnnl INTERFACE)
target_link_libraries(spotd_dnnl INTERFACE ${SPOTD_DNNL})

if(SPOTD_SERVER)
  # Module mode first: Debian's gRPC package expects protobuf::libprotobuf to exist.
  find_package(Protobuf REQUIRED)
  find_package(gRPC CONFIG REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED)
  find_package(yaml-cpp REQUIRED)
  find_package(OpenSSL REQUIRED)
endif()

if(SPOTD_TESTS)
  find_package(GTest CONFIG REQUIRED)
  find_package(benchmark CONFIG REQUIRED)
endif()
