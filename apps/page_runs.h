// The runs that a page is made of.
#pragma once

#include <string>
#include <vector>

#include "inspect/page.h"

namespace norma::apps {

/// Reads runs and what they recorded, as much as one page of all of them holds. What was left out is told on stderr.
std::vector<inspect::PageRun> read_page_runs(const std::vector<std::string>& folders);

}  // namespace norma::apps
