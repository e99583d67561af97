/** Checks the measure of live memory on processes that hold a known number of bytes. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { prepareBareEdge } from "../../infra/workerd/edge.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { type HeapWatch, type LiveHeap, watchHeap } from "../support/live-heap.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const MB = 1e6;
const slack = MB / 4;
/** Each call makes about 4 MB: objects that are kept, objects that are dropped, or a buffer that is kept. */
const script = `const held = [];
const make = {
  keep: () => held.push(Array.from({ length: 500_000 }, (_, i) => i + 0.5)),
  drop: () => Array.from({ length: 500_000 }, (_, i) => i + 0.5).length,
  buffer: () => held.push(new Uint8Array(4_000_000)),
};`;

async function expectToTell(heap: HeapWatch, make: (kind: string) => Promise<void>) {
  const growthOf = async (kind: string): Promise<LiveHeap> => {
    const before = await heap.live();
    await make(kind);
    const after = await heap.live();
    return { heap: after.heap - before.heap, buffers: after.buffers - before.buffers };
  };
  await make("drop");
  const [dropped, kept, buffers] = [await growthOf("drop"), await growthOf("keep"), await growthOf("buffer")];
  expect(Math.abs(dropped.heap)).toBeLessThan(slack);
  expect(kept.heap).toBeGreaterThan(4 * MB - slack);
  expect(buffers.buffers).toBeGreaterThan(4 * MB - slack);
  expect(Math.abs(buffers.heap)).toBeLessThan(slack);
}

test("memory that a Node process's thread keeps is told from its garbage", async () => {
  const worker = `const { parentPort } = require("node:worker_threads"); ${script}
    parentPort.on("message", (kind) => { make[kind](); parentPort.postMessage("made"); });`;
  const main = `const { Worker } = require("node:worker_threads");
    const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
    worker.on("online", () => process.send("ready"));
    worker.on("message", () => process.send("made"));
    process.on("message", (kind) => worker.postMessage(kind));`;
  const child: ChildProcess = spawn(process.execPath, ["--inspect=127.0.0.1:0", "-e", main], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const [[line]] = await Promise.all([once(child.stderr!, "data"), once(child, "message")]);
  const heap = await watchHeap([/ws:\S+/.exec(String(line))![0]]);
  onTestFinished(heap.close);
  await expectToTell(heap, async (kind) => {
    const made = once(child, "message");
    child.send(kind);
    await made;
  });
});

test("memory that a Worker keeps is told from its garbage", async () => {
  const directory = temporaryFolder();
  const worker = `${script}
    export default { fetch(request) { make[new URL(request.url).pathname.slice(1)]?.(); return new Response("ok"); } };`;
  await writeFile(path.join(directory, "worker.js"), worker);
  await writeFile(path.join(directory, "wrangler.toml"), 'main = "worker.js"\ncompatibility_date = "2026-11-17"\n');
  const prepared = await prepareBareEdge(path.join(directory, "wrangler.toml"));
  onTestFinished(prepared.remove);
  const workerd = stopAtEnd(await prepared.start({}, { isInspected: true }));
  const get = async (what: string) => void (await (await fetch(`${workerd.url}/${what}`)).text());
  const heap = await watchHeap([workerd.inspector!("edge")], () => get(""));
  onTestFinished(heap.close);
  await expectToTell(heap, get);
});
