/** A thousand bad requests leave edge and backend as they were; `npm run fuzz` sends as many as one likes. */
import { expect, test } from "vitest";
import { failureOf, fuzzRequests } from "../fuzz/requests/run.ts";

const seed = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 1e6) + 1);

test("each bad request gets a fitting refusal, and nothing of it stays", async () => {
  console.log(`seed ${seed} (set FUZZ_SEED to repeat)`);
  const result = await fuzzRequests({ requests: 1000, seed, concurrency: 32 });
  console.log(JSON.stringify(result.outcomes));
  expect(result.failures.map(({ request, outcome }) => [failureOf(outcome), request.head, outcome.answer])).toEqual([]);
  expect(result.refusedSets).toBeGreaterThan(0);
  expect(result.left).toMatchObject({
    "vllm:num_requests_running": 0,
    "vllm:num_requests_waiting": 0,
    chameleon_parked_sequences: 0,
  });
});
