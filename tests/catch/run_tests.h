// Runs the tests of a program. The whole of Catch2 is compiled once, in run_tests.cpp, for all test programs.
#pragma once

/// Catch2's command line; returns the exit code.
int run_tests(int argc, char** argv);
