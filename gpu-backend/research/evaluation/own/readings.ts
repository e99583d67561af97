/**
 * Which tokens of a kind's texts are read: all that rules are fitted on and measured with. Shapes: S texts, P positions of each.
 */
import { positionsOfEvidence } from "../../../../shared/math/evidence.ts";
import { brakePositions } from "../../../../shared/math/memory.ts";
import type { ModelReading } from "../reader.ts";
import type { Text } from "../texts.ts";
import type { Model } from "./data.ts";
import { promptTokens, scoredTokens } from "./kinds.ts";

/** Positions of a text whose next token is read, [P]: those that choose the brakes, then those that are scored. */
export const evidencePositions = positionsOfEvidence(promptTokens, undefined, brakePositions);
export const readPositions = [
  ...evidencePositions,
  ...Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i),
];

/** What models say at these positions of all texts, [S × P], and memories beside them, by their names (`memoryNames`). */
export type Readings = Record<Model, ModelReading>;

/** The tokens that came, [S × P]. */
export function targetsOf(texts: readonly Text[]): Int32Array {
  return Int32Array.from(texts.flatMap(({ ids }) => readPositions.map((t) => ids[t + 1])));
}
