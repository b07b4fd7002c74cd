// einops' rearrange: axes by name. A pattern is read into groups of names on both sides; the work is a reshape into single
// axes, a permutation, and a reshape into the groups of the right side.
#include <algorithm>
#include <cctype>
#include <string>

#include "autograd/dispatch.h"

namespace norma {

namespace {

using Group = std::vector<std::string>;  // "(h d)" or one name; "1" and "()" are empty groups
using Side = std::vector<Group>;

constexpr std::string_view dots = "...";           // as axes of their own
constexpr std::string_view merged_dots = "(...)";  // inside a group

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view side) : pattern_(pattern), rest_(side) {}

  Side read() {
    Side side;
    for (std::string_view word = next(); !word.empty(); word = next()) {
      if (word == "(") {
        side.push_back(read_group());
      } else {
        side.push_back(word == "1" ? Group{} : Group{named(word)});
      }
    }
    return side;
  }

 private:
  Group read_group() {
    Group group;
    for (std::string_view word = next(); word != ")"; word = next()) {
      if (word.empty() || word == "(") fail("rearrange: a parenthesis in \"{}\" is not closed", pattern_);
      if (word != "1") group.push_back(word == dots ? std::string(merged_dots) : named(word));
    }
    return group;
  }

  std::string named(std::string_view word) const {
    if (word == dots || std::isalpha(static_cast<unsigned char>(word[0])) || word[0] == '_') return std::string(word);
    fail("rearrange: unexpected \"{}\" in \"{}\"", word, pattern_);
  }

  std::string_view next() {
    const auto in_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
    rest_.remove_prefix(std::min(rest_.find_first_not_of(' '), rest_.size()));
    std::size_t length = rest_.empty() ? 0 : 1;
    if (rest_.starts_with(dots)) {
      length = dots.size();
    } else if (!rest_.empty() && in_word(rest_[0])) {
      while (length < rest_.size() && in_word(rest_[length])) ++length;
    }
    const std::string_view word = rest_.substr(0, length);
    rest_.remove_prefix(length);
    return word;
  }

  std::string_view pattern_, rest_;
};

/// Replaces "..." by `count` names that no pattern can spell.
void spell_dots(Side& side, int count) {
  const auto names = [&] {
    Group g;
    for (int i = 0; i < count; ++i) g.push_back(fmt::format(".{}", i));
    return g;
  }();
  Side spelled;
  for (const Group& group : side) {
    if (group == Group{std::string(dots)}) {
      for (const std::string& n : names) spelled.push_back({n});
      continue;
    }
    Group g;
    for (const std::string& n : group) {
      if (n == merged_dots) g.insert(g.end(), names.begin(), names.end());
      else g.push_back(n);
    }
    spelled.push_back(g);
  }
  side = spelled;
}

struct Axis {
  std::string name;
  Index size = -1;  // -1: not known yet
};

Axis* find(std::vector<Axis>& axes, std::string_view name) {
  const auto it = std::find_if(axes.begin(), axes.end(), [&](const Axis& a) { return a.name == name; });
  return it == axes.end() ? nullptr : &*it;
}

/// The single axes of the left side in order, with their sizes.
std::vector<Axis> solve(std::string_view pattern, const Side& left, const Shape& shape, Sizes given) {
  std::vector<Axis> axes;
  for (const Group& group : left) {
    for (const std::string& n : group) {
      if (find(axes, n)) fail("rearrange: {} appears twice on the left of \"{}\"", n, pattern);
      axes.push_back({n});
    }
  }
  for (const auto& [n, size] : given) {
    Axis* axis = find(axes, n);
    if (!axis) fail("rearrange: a size is given for {}, which is not on the left of \"{}\"", n, pattern);
    if (size < 0) fail("rearrange: the size of {} is negative ({})", n, size);
    axis->size = size;
  }
  for (std::size_t i = 0; i < left.size(); ++i) {
    const Index total = shape[static_cast<int>(i)];
    Index known = 1;
    Axis* open = nullptr;
    for (const std::string& n : left[i]) {
      Axis* axis = find(axes, n);
      if (axis->size >= 0) known *= axis->size;
      else if (open) fail("rearrange: give the size of {} or {}: axis {} of {} is {}", open->name, n, i, shape, total);
      else open = axis;
    }
    if (open && known != 0 && total % known == 0) open->size = total / known;
    else if (open || known != total) {
      std::string group;
      for (const std::string& n : left[i]) group += (group.empty() ? "" : " ") + n;
      fail("rearrange: axis {} of {} is {}, which does not split into ({}) with {} known", i, shape, total, group, known);
    }
  }
  return axes;
}

}  // namespace

Tensor rearrange(const Tensor& x, std::string_view pattern, Sizes sizes) {
  check_present("rearrange", x);
  const std::size_t arrow = pattern.find("->");
  if (arrow == std::string_view::npos) fail("rearrange: \"{}\" has no ->", pattern);
  Side left = Parser(pattern, pattern.substr(0, arrow)).read(), right = Parser(pattern, pattern.substr(arrow + 2)).read();
  const auto dot_groups = std::count(left.begin(), left.end(), Group{std::string(dots)});
  for (const Group& group : left) {
    if (dot_groups > 1 || std::find(group.begin(), group.end(), merged_dots) != group.end()) {
      fail("rearrange: ... must stand alone, and once, on the left of \"{}\"", pattern);
    }
  }
  const bool dotted = dot_groups == 1;
  const int named = static_cast<int>(left.size()) - (dotted ? 1 : 0);
  if (dotted ? x.rank() < named : x.rank() != named) {
    fail("rearrange: \"{}\" names {} axes, x is {}", pattern, named, x.shape());
  }
  if (dotted) {
    spell_dots(left, x.rank() - named);
    spell_dots(right, x.rank() - named);
  }
  std::vector<Axis> axes = solve(pattern, left, x.shape(), sizes);

  Shape single, result;
  for (const Axis& a : axes) single.append(a.size);
  std::vector<int> order;
  for (const Group& group : right) {
    Index size = 1;
    for (const std::string& n : group) {
      const Axis* axis = find(axes, n);
      if (!axis) fail("rearrange: {} is only on the right of \"{}\"", n, pattern);
      const int index = static_cast<int>(axis - axes.data());
      if (std::find(order.begin(), order.end(), index) != order.end()) {
        fail("rearrange: {} appears twice on the right of \"{}\"", n, pattern);
      }
      order.push_back(index);
      size *= axis->size;
    }
    result.append(size);
  }
  for (std::size_t i = 0; i < axes.size(); ++i) {
    if (std::find(order.begin(), order.end(), static_cast<int>(i)) == order.end()) {
      fail("rearrange: {} is only on the left of \"{}\"", axes[i].name, pattern);
    }
  }
  const bool still = std::is_sorted(order.begin(), order.end());
  const Tensor apart = reshape(x, single);
  return reshape(still ? apart : permute(apart, order), result);
}

}  // namespace norma
