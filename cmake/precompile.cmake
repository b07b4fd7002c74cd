# norma_precompile(target headers...): headers from outside the project that many files of the target read, parsed once. Sources still
# include what they use: the presets with a sanitizer build without this and would tell.
function(norma_precompile target)
  if(NOT NORMA_SANITIZE)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  endif()
endfunction()
