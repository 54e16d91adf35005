// What weft prepare shows: its progress, the counts at the end, and its figures for --json.
#pragma once
#include "base/json.h"
#include "data/prepare.h"

namespace weft::app {

void show_prepare_progress(const data::PrepareProgress&);
void print_prepare_report(const data::PrepareReport&, const data::PreparedData& made);
Json prepare_figures(const data::PrepareReport&, const data::PreparedData& made, double seconds);

}  // namespace weft::app
