/** The base that tests run on: a GPT-2 of 1.8 million parameters, which opens in a tenth of a second. */
import path from "node:path";

export const smallBase = path.join(import.meta.dirname, "../fixtures/small-base");
export const smallArtifacts = path.join(smallBase, "artifacts");
