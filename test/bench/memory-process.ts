/**
 * A session without a server over the graph that the backend serves. Runs a batch and reports the largest resident memory.
 * Run by memory.ts: node memory-process.ts SETTINGS CELL
 */
import { openModel } from "../../gpu-backend/engine/open-model.ts";
import { Batch } from "./chameleon.ts";
import { BatchMeter, type Cell } from "./contestant.ts";
import { promptsOf } from "./model.ts";

const [settings, cell] = process.argv.slice(2).map((text) => JSON.parse(text));
const { batch, context, steps } = cell as Cell;
const { runner } = await openModel(settings, () => performance.now());
const gates = Array.from({ length: batch }, () => new Float32Array(runner.gates));
const rows = new Batch(runner, batch, context);
const meter = new BatchMeter();
await rows.prefill(promptsOf(batch, context - steps), gates);
meter.token();
for (let step = 0; step < steps; step++) {
  await rows.decode(gates);
  meter.token();
}
process.send?.(meter.result().rssBytes);
await runner.release();
process.disconnect?.();
