# norma_room(folder [HEADERS set] LINK targets...): one static library per folder, of all .cpp files directly in it; HEADERS: which
# set of cmake/precompile.cmake it reads precompiled, `common` where it says nothing.
function(norma_room folder)
  cmake_parse_arguments(ARG "" "HEADERS" "LINK" ${ARGN})
  string(REPLACE "/" "_" name ${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  add_library(norma_${name} STATIC ${sources})
  target_link_libraries(norma_${name} PUBLIC norma_headers ${ARG_LINK})
  if(NOT ARG_HEADERS)
    set(ARG_HEADERS common)
  endif()
  norma_precompile(norma_${name} ${ARG_HEADERS})
endfunction()

# norma_quick_to_compile(targets...): files, text and pages, where nothing is hot; at -O1 they compile in two thirds of the time.
function(norma_quick_to_compile)
  foreach(target IN LISTS ARGN)
    target_compile_options(${target} PRIVATE $<$<AND:$<CONFIG:Release>,$<NOT:$<BOOL:${NORMA_SANITIZE}>>>:-O1>)
  endforeach()
endfunction()
