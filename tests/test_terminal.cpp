// Texts in lines that a terminal holds.
#include <catch2/catch.hpp>

#include "core/terminal.h"

using namespace norma;
using Lines = std::vector<std::string>;

TEST_CASE("a text is broken at blanks, and a word that is longer than a line within it", "[terminal]") {
  CHECK(wrapped("", 10) == Lines{""});
  CHECK(wrapped("ten signs.", 10) == Lines{"ten signs."});
  CHECK(wrapped("one two three", 7) == Lines{"one two", "three"});
  CHECK(wrapped("one two  three four", 9, 2) == Lines{"one two", "  three", "  four"});
  CHECK(wrapped("x → y → z", 5) == Lines{"x → y", "→ z"});  // characters, not bytes
  CHECK(wrapped("runs/demo/softmax-seed1", 20) == Lines{"runs/demo/softmax-", "seed1"});
  CHECK(wrapped("runs/experiments/x3-s1", 20) == Lines{"runs/experiments/", "x3-s1"});  // behind a / rather than a -
  CHECK(wrapped("a/bcdefghijkl", 8) == Lines{"a/bcdefg", "hijkl"});  // behind the /, one letter would stand alone
  CHECK(wrapped("日本語の実験", 7) == Lines{"日本語", "の実験"});  // two columns each
  CHECK(wrapped("日本", 1) == Lines{"日", "本"});                  // never less than a character
  CHECK(columns("run 実験") == 8);
  CHECK(columns("e\u0301t\u00e9 \xf0\x9f\x98\x80 \xe5\xae") == 8);  // a joined mark, an emoji, a cut character
  CHECK(wrapped("αβγδεζ", 4) == Lines{"αβγδ", "εζ"});
  CHECK(wrapped("  --flag TEXT  what it is for", 22, 15) == Lines{"  --flag TEXT  what it", "               is for"});
  CHECK(wrapped("  --flag TEXT  internationalization", 20, 15) == Lines{"  --flag TEXT  inter", "               natio", "               naliz", "               ation"});
}

TEST_CASE("prose is filled up to the ends of sentences; lines with columns stand for themselves", "[terminal]") {
  CHECK(filled("usage: norma x\n\nOne sentence that\ngoes on here. It ends.\nThe next\none.\n", 20) == "usage: norma x\n\nOne sentence that\ngoes on here. It\nends.\nThe next one.\n");
  CHECK(filled("Fields but for\n  seed, out\nend here.\n", 80) == "Fields but for\n  seed, out\nend here.\n");
  CHECK(filled("norma a    what it does\nnorma bb   and the other\n", 35) == "norma a    what it does\nnorma bb   and the other\n");
  CHECK(filled("norma a    what it does for all\n", 35) == "norma a    what it does for all\n");
  CHECK(filled("norma a    what it does for all of the runs\n", 35) == "norma a    what it does for all of\n           the runs\n");
  CHECK(filled("", 20) == "");
}
