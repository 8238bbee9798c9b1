# The compiler settings every target shares, and the three ways to declare one: library, binary, test.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

find_program(SPOTD_CCACHE ccache)
if(SPOTD_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SPOTD_CCACHE})
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${SPOTD_CCACHE})
endif()

add_library(spotd_settings INTERFACE)
target_include_directories(spotd_settings INTERFACE ${CMAKE_SOURCE_DIR})
# The baseline that Debian's Highway and every x86-64 server since 2010 share; faster code is chosen at run time.
target_compile_options(spotd_settings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wimplicit-fallthrough -Werror>
  # Sources name warnings that only GCC knows.
  $<$<COMPILE_LANG_AND_ID:CXX,Clang>:-Wno-unknown-warning-option>)
if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
  target_compile_options(spotd_settings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-march=x86-64-v2>)
endif()
if(SPOTD_SANITIZE)
  target_compile_options(spotd_settings INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SPOTD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all>)
  target_link_options(spotd_settings INTERFACE -fsanitize=${SPOTD_SANITIZE})
endif()
if(SPOTD_FUZZ)
  target_compile_options(spotd_settings INTERFACE -fsanitize=fuzzer-no-link)
endif()

# spotd_library(NAME SOURCES a.cc ... DEPS lib ...): a static library. DEPS is the list of what it may include.
function(spotd_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC spotd_settings ${ARG_DEPS})
endfunction()

# spotd_binary(NAME SOURCES main.cc ... DEPS lib ...): an executable, placed in bin/.
function(spotd_binary name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE spotd_settings ${ARG_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# spotd_test(NAME SOURCES x_test.cc ... DEPS lib ... [LABELS l ...] [TIMEOUT s]): a GoogleTest binary, run by ctest.
# Golden data is found through SPOTD_SOURCE_DIR.
function(spotd_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE spotd_settings ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE SPOTD_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# spotd_benchmark(NAME SOURCES x_bench.cc DEPS lib ...): a Google Benchmark binary; built, not run by ctest.
function(spotd_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE spotd_settings ${ARG_DEPS} benchmark::benchmark benchmark::benchmark_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bench)
endfunction()
