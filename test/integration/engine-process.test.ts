/**
 * An engine process that dies, hangs or does not start, played by a script: callers learn of the fault in bounded time, the process is
 * started again, and no process is left behind.
 */
import { ChildProcess } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { EngineSettings } from "../../gpu-backend/engine/messages.ts";
import { EngineClient } from "../../gpu-backend/host/client.ts";
import { stopMs } from "../../gpu-backend/host/forked-process.ts";
import { type EngineFailure, firstRestartMs, stableMs, startMs } from "../../gpu-backend/host/supervisor.ts";
import type { Frame } from "../../shared/contracts/inference.ts";
import { isRunning } from "../support/backend-process.ts";
import { sequenceRequest } from "../support/engine-harness.ts";
import type { Fault, Script } from "../support/scripted-engine.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";

const stallMs = 1000;
const environment = { LC_ALL: "C" };
const script = new URL("../support/scripted-engine.ts", import.meta.url);
const batch = { version: 4, manifestHash: "a".repeat(64), centroidId: null } as const;
const patience = { timeout: 20_000, interval: 5 };
let nowMs = 0;
let folder: string;
let failures: EngineFailure[];
const closing: EngineClient[] = [];

beforeEach(() => {
  folder = temporaryFolder();
  failures = [];
});
afterEach(async () => {
  vi.useRealTimers();
  vi.restoreAllMocks();
  for (const one of closing.splice(0)) await one.close(0);
  expect(pids().filter(isRunning)).toEqual([]);
});

/** Ids of all engine processes that were started. */
function pids(): number[] {
  const lines = readFileSync(path.join(folder, "pids"), "utf8").split("\n");
  return lines.slice(0, -1).map(Number);
}

function open(then: Script["then"], starts: Script["starts"] = ["ready"]) {
  const reports = { count: 0 };
  const pidFile = path.join(folder, "pids");
  writeFileSync(pidFile, "");
  const settings = { ...{ then, starts, pidFile }, artifactsDirectory: folder } as unknown as EngineSettings;
  const nothing = () => {};
  const observer = {
    ...{ phaseRan: nothing, tokenArrived: nothing, sequenceEnded: nothing, sequenceFaulted: nothing },
    ...{ engineReady: nothing, engineFailed: (failure: EngineFailure) => void failures.push(failure) },
    statsChanged: () => void reports.count++,
  };
  const client = new EngineClient(settings, { observer, now: () => nowMs, stallMs, environment, script });
  closing.push(client);
  const frames: Frame[] = [];
  const submit = (id: string) =>
    client.submit({ ...batch, sequences: [sequenceRequest(id, [1])] }, (some) => frames.push(...some));
  return { client, reports, frames, submit };
}

async function started(...parts: Parameters<typeof open>) {
  const opened = open(...parts);
  await opened.client.ready;
  return opened;
}

const lost = (id: string) => ({ type: "error", id, kind: "backend_unavailable", retryAfterSeconds: 1 });

describe("an engine that dies at its work", () => {
  test.each<[Fault, string]>([
    ["throw", "ended in an error"],
    ["exit", "ended with code 3"],
    ["SIGSEGV", "was ended by SIGSEGV"],
    ["SIGABRT", "was ended by SIGABRT"],
  ])("(%s) fails every open sequence, so that each can go on elsewhere, and is started again", async (fault, how) => {
    const { client, submit, frames } = await started(fault);
    const info = client.info;
    submit("a");
    submit("b");
    await vi.waitFor(() => expect(failures).toHaveLength(1), patience);
    expect(frames).toMatchObject([lost("a"), lost("b")]);
    expect(failures[0]).toMatchObject({ how, failures: 1, restartMs: firstRestartMs });
    if (fault === "throw") expect(failures[0].error?.message).toBe("the step failed");
    // The client is not ready and names the reason, but its `info` is unchanged.
    expect(client.isServing).toBe(false);
    expect(() => submit("c")).toThrow(`The engine is restarting: it ${how}.`);
    expect(client.info).toBe(info);
    await vi.waitFor(() => expect(client.isServing).toBe(true), patience);
    expect(pids()).toHaveLength(2);
    expect(client.requireServing().manifestHash).toBe("a".repeat(64));
  });

  test("again and again is restarted after longer delays, which start over once it ran for long", async () => {
    const { client, submit } = await started("SIGSEGV");
    for (const expected of [1, 2, 3, 1]) {
      // An engine that ran for `stableMs` is restarted after the same wait as after a first failure.
      if (expected === 1) nowMs += stableMs;
      submit(`s${failures.length}`);
      await vi.waitFor(() => expect(failures.at(-1)?.failures).toBe(expected), patience);
      await vi.waitFor(() => expect(client.isServing).toBe(true), patience);
    }
    expect(failures.map(({ restartMs }) => restartMs / firstRestartMs)).toEqual([1, 2, 4, 1]);
  });

  test("and then fails to start reports each failure, and serves once a start succeeds", async () => {
    const { client, submit } = await started("SIGSEGV", ["ready", "throw", "other-artifacts", "ready"]);
    submit("a");
    await vi.waitFor(() => expect(pids()).toHaveLength(4), patience);
    await vi.waitFor(() => expect(client.isServing).toBe(true), patience);
    expect(failures.map(({ how }) => how)).toEqual([
      "was ended by SIGSEGV",
      "ended in an error",
      "found other artifacts in its folder than at the first start",
    ]);
  });

  test("is not started again once it is closed", async () => {
    const { client, submit } = await started("SIGSEGV");
    submit("a");
    await vi.waitFor(() => expect(failures).toHaveLength(1), patience);
    vi.useFakeTimers();
    await client.close(0);
    expect(vi.getTimerCount()).toBe(0);
    expect(pids()).toHaveLength(1);
  });
});

describe("an engine that hangs", () => {
  test("is killed once it has finished no pass for long while a sequence is open, and started again", async () => {
    const { client, submit, frames } = await started("wait");
    nowMs += 10 * stallMs;
    submit("a");
    nowMs += stallMs - 1;
    // A new sequence does not make a hung engine look alive.
    submit("b");
    nowMs += 1;
    await vi.waitFor(() => expect(failures).toHaveLength(1), patience);
    expect(frames).toMatchObject([lost("a"), lost("b")]);
    expect(failures[0].how).toBe(`finished no pass for ${stallMs} ms`);
    expect(() => submit("c")).toThrow(/restarting: it finished no pass/);
    await vi.waitFor(() => expect(client.isServing).toBe(true), patience);
  });

  test.each(["answer", "progress"] as const)("(%s) is not killed while it finishes passes or is idle", async (then) => {
    vi.useFakeTimers({ toFake: ["setInterval"] });
    const { client, submit, reports } = await started(then);
    const watched = async () => {
      await vi.advanceTimersByTimeAsync(10_000);
      // The watch checks in setImmediate, so that reports that have arrived are handled first.
      await new Promise(setImmediate);
    };
    nowMs += 10 * stallMs;
    await watched();
    submit("a");
    nowMs += stallMs - 1;
    await vi.waitFor(() => expect(reports.count).toBe(1), patience);
    nowMs += stallMs - 1;
    await watched();
    expect(client.isServing).toBe(true);
    expect(client.openSequences).toBe(1);
    nowMs += 1;
    await watched();
    expect(client.isServing).toBe(false);
  });

  test("is closed in time: what is open ends in an error that says to come back", async () => {
    const { client, submit, frames } = await started("wait");
    submit("a");
    await client.close(10);
    expect(frames).toMatchObject([lost("a")]);
    expect(() => client.requireServing()).toThrow(/shutting down/);
  });

  test("and outlives its kill is not waited for", async () => {
    const { client } = await started("wait");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    vi.spyOn(ChildProcess.prototype, "kill").mockReturnValue(true);
    const closed = client.close(0);
    await vi.advanceTimersByTimeAsync(stopMs);
    await closed;
    expect(pids().filter(isRunning)).toEqual(pids());
  });

  test("keeps nobody waiting for hidden states", async () => {
    const { client } = await started("wait");
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const states = client.hiddenStates([sequenceRequest("a", [1])], [1], new AbortController().signal);
    const refusal = expect(states).rejects.toMatchObject({ kind: "backend_unavailable", retryAfterSeconds: 1 });
    await vi.advanceTimersByTimeAsync(310_000);
    await refusal;
    expect(vi.getTimerCount()).toBe(0);
  });
});

test("an engine's process gets the environment that it was given, and no other", async () => {
  const { environment: seen } = (await started("done")).client.info as unknown as { environment: NodeJS.ProcessEnv };
  expect(seen).toMatchObject(environment);
  expect(seen).not.toHaveProperty("PATH");
});

describe("an engine that does not start the first time", () => {
  test.each<[Fault, string]>([
    ["throw", "the step failed"],
    ["exit", "the engine ended with code 3 before it was ready"],
    ["SIGSEGV", "the engine was ended by SIGSEGV before it was ready"],
  ])("(%s) says why, and is not started again", async (fault, message) => {
    const { client } = open("done", [fault]);
    await expect(client.ready).rejects.toThrow(message);
    vi.useFakeTimers();
    await client.close(0);
    expect(vi.getTimerCount()).toBe(0);
    expect([pids().length, failures.length]).toEqual([1, 0]);
  });

  test("but hangs is given up", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    const { client } = open("done", ["wait"]);
    const refusal = expect(client.ready).rejects.toThrow(`the engine did not start within ${startMs / 1000} s`);
    await vi.advanceTimersByTimeAsync(startMs);
    await refusal;
  });
});
