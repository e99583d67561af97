/** Values of the command lines of benchmarks and fuzzers. Each throws commander's InvalidArgumentError. */
import { InvalidArgumentError } from "commander";

export function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError("must be a whole number above 0");
  return value;
}
