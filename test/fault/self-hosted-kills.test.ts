/**
 * kill -9 of a self-hosted edge under streams and writes, and a backup under the same load: no key, limit, charge, adapter or
 * memory is lost or doubled.
 */
import { execFile } from "node:child_process";
import { mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { stopAtEnd } from "../support/at-end.ts";
import { freePorts } from "../support/stack.ts";
import { seededRandom } from "../support/steps.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { Caller, killedEdge, killUnderLoad, newCallers, startKilledEdge } from "./edge-kills.ts";

const kills = 5;
const streams = 12;
const patience = { timeout: 60_000 };
const seed = Date.now() % 1e6;
const commandFile = path.join(import.meta.dirname, "../../infra/backup.ts");

const folder = temporaryFolder();
const { edge, backend } = await startKilledEdge(folder);
stopAtEnd(backend);
stopAtEnd(edge);

test(`${kills} kills under ${streams} streams (seed ${seed})`, { timeout: 300_000 }, async () => {
  const figures = await killUnderLoad(edge, { kills, streams, seed, say: () => {} });
  expect(figures.answers).toBeGreaterThan((kills * streams) / 2);
  expect(figures.resumed).toBeGreaterThan(0);
  expect(figures.memoriesMade).toBeGreaterThan(0);
  expect(figures.cutCharged).toBeLessThan(figures.cut / 2);
});

const run = (name: string, file: string, to: string) =>
  promisify(execFile)(process.execPath, [commandFile, name, file], { env: { ...process.env, STATE_DIR: to } });

/** A copy of what a caller was promised and what it has in flight. */
const promised = ({ charged, memories, unknown, cut }: Caller) => ({
  ...{ charged: { ...charged }, memories: new Map(memories), unknown, most: cut?.most ?? { requests: 0, tokens: 0 } },
});

test("a backup under load is restored to what was promised before it, and nothing of after it", async () => {
  const [port, otherPort] = await freePorts(2);
  const saved = stopAtEnd(killedEdge(path.join(folder, "backed-up"), backend, port));
  await saved.start();
  const callers = await newCallers(saved, streams, seededRandom(seed));
  let isKilled = false;
  const traffic = Promise.all(callers.map((caller) => caller.run(() => isKilled)));
  // A failure of `traffic` is handled after the kill, where `traffic` is awaited.
  traffic.catch(() => undefined);
  const answers = () => callers.reduce((sum, caller) => sum + caller.answers, 0);
  await expect.poll(answers, patience).toBeGreaterThan(3 * streams);
  const before = callers.map(promised);
  const file = path.join(folder, "backup.tar.gz");
  await run("backup", file, saved.state);
  const after = callers.map(promised);
  // The edge goes on answering after the backup.
  const answered = answers();
  await expect.poll(answers, patience).toBeGreaterThan(answered);
  isKilled = true;
  await saved.kill();
  await expect(run("backup", file, saved.state)).rejects.toThrow("is there already");

  const restored = stopAtEnd(killedEdge(path.join(folder, "restored"), backend, otherPort));
  await run("restore", file, restored.state);
  await expect(run("restore", file, restored.state)).rejects.toThrow("move it away");
  await restored.start();
  for (const [i, { options }] of callers.entries()) {
    const one = new Caller({ ...options, edge: restored, isResuming: false });
    const memories = await one.memoryTokens();
    const isSettled = (name: string) => before[i].memories.get(name) === after[i].memories.get(name);
    const changing = new Set([before[i].unknown, after[i].unknown]);
    for (const name of new Set([...memories.keys(), ...before[i].memories.keys(), ...after[i].memories.keys()])) {
      if (changing.has(name) || !isSettled(name)) continue;
      expect([name, memories.get(name)]).toEqual([name, before[i].memories.get(name)]);
    }
    const [least, most] = [before[i].charged, after[i].charged];
    for (const name of ["requests", "tokens"] as const) {
      // Polls, because a memory's charge is stored with the memory and reaches the ledger later.
      await expect.poll(async () => (await one.used())[name], patience).toBeGreaterThanOrEqual(least[name]);
      expect((await one.used())[name]).toBeLessThanOrEqual(most[name] + after[i].most[name]);
    }
    const answer = await one.send("POST", "/v1/completions", { prompt: "Once", max_tokens: 2 });
    expect(answer.status).toBe(200);
  }
  await restored.kill();
  // The saved edge starts again, so that the client library's streams can resume and end.
  await saved.start();
  await traffic;
  await saved.stop();

  // This restore stops half way, because `objects` is a broken link, which a folder cannot replace.
  const part = path.join(folder, "part");
  await mkdir(part);
  await symlink("nowhere", path.join(part, "objects"));
  await expect(run("restore", file, part)).rejects.toThrow("ENOTDIR");
  await expect(killedEdge(part, backend, port).start()).rejects.toThrow("whose restore was stopped");

  // The state now names a layout that this version does not know.
  await writeFile(path.join(restored.state, "version"), "1\n");
  await expect(restored.start()).rejects.toThrow('has the layout "1", and this version knows 2');
  expect(await readFile(path.join(restored.state, "version"), "utf8")).toBe("1\n");
});
