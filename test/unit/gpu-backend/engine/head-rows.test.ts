import { expect, test } from "vitest";
import { HeadRows } from "../../../../gpu-backend/engine/head-rows.ts";
import { Sequence, vocabularyOf } from "../../../../gpu-backend/engine/sequence.ts";
import { minPrefillTokens } from "../../../../gpu-backend/runtime/step.ts";
import { sequenceRequest } from "../../../support/engine-harness.ts";
import { fakeConfig } from "../../../support/fake-runner.ts";

test("a lone row of evidence asks its prompt's keys as often as rows among others do at least, so that its bits are the same", () => {
  const keys = new Float32Array(3 * 64 * fakeConfig.hiddenSize);
  const request = sequenceRequest("a", [1, 2], { mixture: { base: 1, adapters: [] } });
  const sequence = new Sequence(
    request,
    vocabularyOf(fakeConfig, () => new Uint8Array()),
    0,
  );
  const evidenceOf = (arenaRows: number[]) => {
    const rows = new HeadRows(4, { past: [keys, new Float32Array(0)], pastTokens: 64 }, 3);
    for (const row of arenaRows) rows.addEvidence(sequence, rows.fed(), 2, row);
    rows.addKept(sequence, rows.fed(), arenaRows[0]);
    return rows.tensors().mixed!.evidence!;
  };
  const alone = evidenceOf([1]);
  expect(alone).toMatchObject({ keys, count: 3, positions: 64 });
  expect(alone.queries).toHaveLength(3 * minPrefillTokens);
  const among = evidenceOf([0, 1, 1, 1, 2]);
  for (const [x, row] of [0, 1, 2, 3, 4].entries()) expect(among.queries[among.answers[x]]).toBe(row);
  expect(among.queries).toHaveLength(3 * 3);
});
