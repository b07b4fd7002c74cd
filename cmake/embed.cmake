# norma_embed(target file symbol): makes a text file into `extern const char symbol[]` of namespace norma::inspect.
function(norma_embed target file symbol)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} text)
  # Compilers bound the length of one literal; adjacent ones are joined.
  string(LENGTH "${text}" length)
  set(literals "")
  set(at 0)
  while(at LESS length)
    string(SUBSTRING "${text}" ${at} 8000 part)
    string(APPEND literals "R\"NORMA(${part})NORMA\"\n")
    math(EXPR at "${at} + 8000")
  endwhile()
  file(GENERATE OUTPUT ${PROJECT_BINARY_DIR}/embed/${symbol}.cpp
       CONTENT "namespace norma::inspect {\nextern const char ${symbol}[];\nconst char ${symbol}[] =\n${literals};\n}\n")
  target_sources(${target} PRIVATE ${PROJECT_BINARY_DIR}/embed/${symbol}.cpp)
endfunction()
