/**
 * Attack: requests full of digit strings whose hashes in V8 differ in few bits only, as entries of a list and as words of a text. Judged by
 * another tenant's p95 latency, compared with its p95 latency beside as many harmless requests of the same size.
 */
import { expect, test } from "vitest";
import { postBytes } from "./clients.ts";
import { startAttacked } from "./edge.ts";
import { mostVictimRatio, p95Beside } from "./measurements.ts";

const connections = 4;
const { edge } = await startAttacked({ attacker: {}, quiet: {} });
const digits = Array.from({ length: 80_000 }, (_, i) => String(77 + i * 32_768));
/** Harmless words: the same strings with a letter in place of each digit. */
const words = digits.map((word) => word.replace(/\d/g, (digit) => "abcdefghij"[Number(digit)]));

/** Texts within their length limit that together contain each word once. */
function textsOf(all: readonly string[]): string[] {
  return Array.from({ length: 160 }, (_, i) => all.slice(i * 500, (i + 1) * 500).join(","));
}

const attacks: [string, (all: readonly string[]) => object][] = [
  ["entries of a list", (all) => ({ input: "Once", unknown: all })],
  ["words of a text", (all) => ({ input: textsOf(all) })],
];

test.each(attacks)("strings of digits as %s slow another caller little", async (what, bodyOf) => {
  const floodOf = (all: readonly string[]) => {
    const bytesBase64 = postBytes("/v1/embeddings", "attacker", bodyOf(all)).toString("base64");
    return { port: edge.port, bytesBase64, connections };
  };
  const measure = () =>
    p95Beside({ harmless: floodOf(words), attack: floodOf(digits) }, () =>
      edge.ask("/v1/embeddings", "quiet", { input: "Once" }),
    );
  let found = await measure();
  // A request that gets 429 for its tenant's unread answers costs the server nothing, so such a flood is measured again.
  for (let again = 0; again < 3 && "429" in { ...found.statuses.harmless, ...found.statuses.attack }; again++)
    found = await measure();
  console.log(
    `${what}: p95 ${found.harmlessMs.toFixed(1)} ms beside harmless requests, ${found.attackMs.toFixed(1)} ms beside the attack: ${found.ratio.toFixed(2)}x; ${JSON.stringify(found.statuses)}`,
  );
  expect(found.ratio).toBeLessThanOrEqual(mostVictimRatio);
});
