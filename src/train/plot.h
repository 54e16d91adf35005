// A run's curves as one SVG picture: loss (with validation), gradient norm, throughput, over steps.
#pragma once
#include <string>
#include <utility>
#include <vector>

namespace weft::train {

struct Curve {
  std::string name;
  std::vector<std::pair<double, double>> points;  // (step, value); values that are not finite are left out
};
struct Panel {
  std::string title;
  std::vector<Curve> curves;
  bool log_scale = false;  // for values above 0
};

std::string draw(const std::string& title, const std::vector<Panel>& panels);  // SVG, 900 wide, self-contained
// From metrics.jsonl. InputError when it is missing or has no step.
std::vector<Panel> read_panels(const std::string& metrics_path);

}  // namespace weft::train
