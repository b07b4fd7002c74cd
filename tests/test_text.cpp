// Texts of others in messages: cut between characters, without what a terminal obeys.
#include <catch2/catch.hpp>

#include "core/text.h"

using namespace norma;

TEST_CASE("text: UTF-8 is checked to the letter of RFC 3629", "[text]") {
  for (const char* good : {"", "a", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
                           "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(invalid_utf8(good) == std::string::npos);
  }
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xc2", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xe2\x82", "\xc2\x41"}) {
    CHECK(invalid_utf8(std::string("ab") + bad) == 2);
  }
}

TEST_CASE("text: what is too long is cut between two characters, and says so", "[text]") {
  CHECK(shortened("", 3) == "");
  CHECK(shortened("0123456789", 10) == "0123456789");
  CHECK(shortened("0123456789a", 10) == "0123456...");
  CHECK(shortened("0123", 3) == "...");
  for (const std::string character : {"x", "é", "√", "𝔸"})
    for (const std::string begin : {"", "a", "ab", "abc"}) {
      std::string text = begin;
      while (text.size() < 30) text += character;
      const std::string cut = shortened(text, 20);
      CAPTURE(cut);
      CHECK(cut.size() <= 20);
      CHECK(cut.size() > 20 - character.size());  // as much as there is room for
      CHECK(cut.ends_with("..."));
      CHECK(invalid_utf8(cut) == std::string::npos);
    }
  CHECK(shortened(std::string(100, '\x80'), 20).size() > 13);  // no UTF-8: it does not go back to the beginning
}

TEST_CASE("text: control characters and bytes that are no UTF-8 are spelled out", "[text]") {
  CHECK(printable("x³/√N, \"quoted\\\"") == "x³/√N, \"quoted\\\"");
  CHECK(printable(std::string("a\0b", 3)) == "a\\x00b");
  CHECK(printable("\x1b[31m\r\n\t\x7f") == "\\x1b[31m\\x0d\\x0a\\x09\\x7f");
  CHECK(printable("\xc2\x9b" "31m\xc2\xa0") == "\\xc2\\x9b31m\xc2\xa0");  // U+009B is ESC [ in one character
  CHECK(printable("\xff" "a\xe2\x82\x80\xe2\x82") == "\\xffa\xe2\x82\x80\\xe2\\x82");
  CHECK(in_quotes("a\x1b") == "\"a\\x1b\"");
  CHECK(in_quotes(std::string(5000, 'x')) == '"' + std::string(1024, 'x') + "...\"");
}
