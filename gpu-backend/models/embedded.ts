/** The folder of the base that is served unless another is named: in a checkout and an image beside this file, else a package. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const beside = join(import.meta.dirname, "smollm2-135m");

export const embeddedModel = existsSync(beside) ? beside : packageFolder();

/** The package may be missing where a model is always named; then the error of reading the folder names it. */
function packageFolder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve("@chameleon-edge/smollm2-135m/package.json"));
  } catch {
    return beside;
  }
}
