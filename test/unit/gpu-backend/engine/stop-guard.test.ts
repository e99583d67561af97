import { expect, test } from "vitest";
import { PieceIndex, StopGuard } from "../../../../gpu-backend/engine/stop-guard.ts";
import { seededRandom } from "../../../support/steps.ts";

const seed = 20_261_126;
const letters = ["#", "é", "a", ":", " "];

/** Every piece of one to three letters, and the halves of the one that has two bytes. */
const pieces: Uint8Array[] = [Uint8Array.of(0xc3), Uint8Array.of(0xa9)];
for (const a of letters) {
  for (const b of ["", ...letters]) for (const c of b ? ["", ...letters] : [""]) pieces.push(Buffer.from(a + b + c));
}
const index = new PieceIndex(pieces.length, (id) => pieces[id]);

test("names exactly the tokens after which the text has a stop that it had not before", () => {
  const random = seededRandom(seed);
  const oneOf = <T>(all: readonly T[]) => all[Math.floor(random() * all.length)];
  for (let round = 0; round < 60; round++) {
    const stops = Array.from({ length: 1 + (round % 2) }, () =>
      Array.from({ length: 1 + Math.floor(random() * 5) }, () => oneOf(letters)).join(""),
    );
    const guard = new StopGuard(stops, index);
    let text = Buffer.alloc(0);
    for (let token = 0; token < 12; token++) {
      // A stop that is in the new part: it ends beyond what was there.
      const completes = (piece: Uint8Array) =>
        stops.some((stop) => {
          const bytes = Buffer.from(stop);
          return Buffer.concat([text, piece]).includes(bytes, Math.max(0, text.length - bytes.length + 1));
        });
      const expected = [...pieces.keys()].filter((id) => completes(pieces[id]));
      expect(
        [...new Set(guard.completing())].sort((a, b) => a - b),
        `${stops} after ${text}`,
      ).toEqual(expected);
      const piece = oneOf(pieces);
      guard.push(piece);
      text = Buffer.concat([text, piece]);
    }
  }
});
