# norma_room(folder LINK targets...): one static library per folder, of all .cpp files directly in it.
function(norma_room folder)
  cmake_parse_arguments(ARG "" "" "LINK" ${ARGN})
  string(REPLACE "/" "_" name ${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.cpp)
  add_library(norma_${name} STATIC ${sources})
  target_link_libraries(norma_${name} PUBLIC norma_flags ${ARG_LINK})
endfunction()
