# Headers from outside the project that many files read, parsed once for all rooms that name the same set. Sources still include what
# they use: scripts/check_includes.py tells where one does not, and knows the names of each header here.
set(NORMA_HEADERS_common <fmt/core.h> <algorithm> <array> <cmath> <cstdint> <cstring> <functional> <memory> <optional> <string>
    <string_view> <unordered_map> <vector>)
set(NORMA_HEADERS_json ${NORMA_HEADERS_common} <filesystem> <nlohmann/json.hpp>)
set(NORMA_HEADERS_test ${NORMA_HEADERS_json} <catch2/catch.hpp>)

# norma_precompile(target set [OWN]): the first target that names a set compiles it, the others take it from there. OWN: this one's
# flags differ (an executable's code, another optimization level), so it compiles its own.
function(norma_precompile target set)
  get_property(maker GLOBAL PROPERTY NORMA_PRECOMPILED_${set})
  if(maker AND NOT ARGV2 STREQUAL OWN)
    target_precompile_headers(${target} REUSE_FROM ${maker})
    return()
  endif()
  target_precompile_headers(${target} PRIVATE ${NORMA_HEADERS_${set}})
  if(NOT ARGV2 STREQUAL OWN)
    set_property(GLOBAL PROPERTY NORMA_PRECOMPILED_${set} ${target})
  endif()
endfunction()
