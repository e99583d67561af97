/** The folder of the default base. In a checkout and an image it is beside this file, otherwise in an npm package. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const beside = join(import.meta.dirname, "smollm2-135m");

export const embeddedModel = existsSync(beside) ? beside : packageFolder();

/** Without the package, returns a folder that does not exist. Only a start that needs the folder fails. */
function packageFolder(): string {
  try {
    return dirname(createRequire(import.meta.url).resolve("@chameleon-edge/smollm2-135m/package.json"));
  } catch {
    return beside;
  }
}
