// einops' rearrange: axes by name. A pattern is read into groups of names on both sides; the work is a reshape into single
// axes, a permutation, and a reshape into the groups of the right side.
#include <algorithm>
#include <array>
#include <cctype>
#include <string>

#include "autograd/dispatch.h"

namespace norma {

namespace {

struct Axis {
  std::string_view name;  // in the pattern
  int group;
  Index size = -1;  // -1: not known yet
};

/// "(h d)" is a group of two axes, a name one of its own; "1" and "()" are empty groups.
struct Side {
  std::vector<Axis> axes;
  int groups = 0;
  void add(std::string_view name) { axes.push_back({name, groups}); }
};

constexpr std::string_view dots = "...";           // as axes of their own
constexpr std::string_view merged_dots = "(...)";  // inside a group

class Parser {
 public:
  Parser(std::string_view pattern, std::string_view side) : pattern_(pattern), rest_(side) {}

  Side read() {
    Side side;
    side.axes.reserve(max_rank);
    for (std::string_view word = next(); !word.empty(); word = next(), ++side.groups) {
      if (word == "(") read_group(side);
      else if (word != "1") side.add(named(word));
    }
    return side;
  }

 private:
  void read_group(Side& side) {
    for (std::string_view word = next(); word != ")"; word = next()) {
      if (word.empty() || word == "(") fail("rearrange: a parenthesis in \"{}\" is not closed", pattern_);
      if (word != "1") side.add(word == dots ? merged_dots : named(word));
    }
  }

  std::string_view named(std::string_view word) const {
    if (word == dots || std::isalpha(static_cast<unsigned char>(word[0])) || word[0] == '_') return word;
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

/// Replaces "..." by `count` names that no pattern can spell; spelled() says what stands in the pattern.
Side spell_dots(const Side& side, int count) {
  constexpr std::array<std::string_view, max_rank> names = {".0", ".1", ".2", ".3", ".4", ".5", ".6", ".7"};
  Side spelled{{}, side.groups};
  spelled.axes.reserve(side.axes.size() + max_rank);
  for (const Axis& axis : side.axes) {
    const bool alone = axis.name == dots;
    const int group = axis.group + spelled.groups - side.groups;
    if (!alone && axis.name != merged_dots) {
      spelled.axes.push_back({axis.name, group});
      continue;
    }
    for (int i = 0; i < count; ++i) spelled.axes.push_back({names[static_cast<std::size_t>(i)], alone ? group + i : group});
    if (alone) spelled.groups += count - 1;
  }
  return spelled;
}

std::string_view spelled(std::string_view name) { return name.starts_with('.') ? dots : name; }

Axis* find(std::span<Axis> axes, std::string_view name) {
  const auto it = std::find_if(axes.begin(), axes.end(), [&](const Axis& a) { return a.name == name; });
  return it == axes.end() ? nullptr : &*it;
}

std::span<Axis> group(Side& side, int i) {
  const auto [first, last] = std::equal_range(side.axes.begin(), side.axes.end(), Axis{{}, i}, [](const Axis& a, const Axis& b) { return a.group < b.group; });
  return {first, last};
}

/// Finds the sizes of the left side's axes.
void solve(std::string_view pattern, Side& left, const Shape& shape, Sizes given) {
  for (const Axis& axis : left.axes)
    if (find(left.axes, axis.name) != &axis) fail("rearrange: {} appears twice on the left of \"{}\"", axis.name, pattern);
  for (const auto& [n, size] : given) {
    Axis* axis = find(left.axes, n);
    if (!axis) fail("rearrange: a size is given for {}, which is not on the left of \"{}\"", n, pattern);
    if (size < 0) fail("rearrange: the size of {} is negative ({})", n, size);
    axis->size = size;
  }
  for (int i = 0; i < left.groups; ++i) {
    const Index total = shape[i];
    Index known = 1;
    Axis* open = nullptr;
    for (Axis& axis : group(left, i)) {
      if (axis.size >= 0 && __builtin_mul_overflow(known, axis.size, &known)) fail("rearrange: the size of {} is too large ({})", axis.name, axis.size);
      if (axis.size >= 0) continue;
      if (open) fail("rearrange: give the size of {} or {}: axis {} of {} is {}", open->name, axis.name, i, shape, total);
      open = &axis;
    }
    if (open && known != 0 && total % known == 0) open->size = total / known;
    else if (open || known != total) {
      std::string names;
      for (const Axis& axis : group(left, i)) names.append(names.empty() ? "" : " ").append(axis.name);
      fail("rearrange: axis {} of {} is {}, which does not split into ({}) with {} known", i, shape, total, names, known);
    }
  }
}

}  // namespace

Tensor rearrange(const Tensor& x, std::string_view pattern, Sizes sizes) {
  check_present("rearrange", x);
  const std::size_t arrow = pattern.find("->");
  if (arrow == std::string_view::npos) fail("rearrange: \"{}\" has no ->", pattern);
  Side left = Parser(pattern, pattern.substr(0, arrow)).read(), right = Parser(pattern, pattern.substr(arrow + 2)).read();
  const auto dot_groups = std::count_if(left.axes.begin(), left.axes.end(), [](const Axis& a) { return a.name == dots; });
  if (dot_groups > 1 || find(left.axes, merged_dots)) fail("rearrange: ... must stand alone, and once, on the left of \"{}\"", pattern);
  const bool dotted = dot_groups == 1;
  const int named = left.groups - (dotted ? 1 : 0);
  if (dotted ? x.rank() < named : x.rank() != named) {
    fail("rearrange: \"{}\" names {} axes, x is {}", pattern, named, x.shape());
  }
  if (dotted) left = spell_dots(left, x.rank() - named), right = spell_dots(right, x.rank() - named);
  solve(pattern, left, x.shape(), sizes);

  Shape single, result;
  for (const Axis& a : left.axes) single.append(a.size);
  std::vector<int> order;
  order.reserve(left.axes.size());
  for (int i = 0; i < right.groups; ++i) {
    Index size = 1;
    for (const Axis& wanted : group(right, i)) {
      const Axis* axis = find(left.axes, wanted.name);
      if (!axis) fail("rearrange: {} is only on the right of \"{}\"", wanted.name, pattern);
      const int index = static_cast<int>(axis - left.axes.data());
      if (std::find(order.begin(), order.end(), index) != order.end()) {
        fail("rearrange: {} appears twice on the right of \"{}\"", spelled(wanted.name), pattern);
      }
      order.push_back(index);
      size *= axis->size;
    }
    result.append(size);
  }
  for (std::size_t i = 0; i < left.axes.size(); ++i) {
    if (std::find(order.begin(), order.end(), static_cast<int>(i)) == order.end()) {
      fail("rearrange: {} is only on the left of \"{}\"", spelled(left.axes[i].name), pattern);
    }
  }
  const bool still = std::is_sorted(order.begin(), order.end());
  const Tensor apart = reshape(x, single);
  return reshape(still ? apart : permute(apart, order), result);
}

}  // namespace norma
