/** `npm start` as a user meets it: its ready line, its errors, and that no process outlives it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { expect, onTestFinished, test } from "vitest";
import { serve } from "../support/loopback.ts";
import { outcomeOf } from "../support/outcome.ts";
import { root } from "../support/project.ts";
import { freePorts, runningStack } from "../support/stack.ts";

const patience = { timeout: 20_000 };

/**
 * Runs the bootstrap, or `file`, in a process group of its own, as npm does. `ready` is a promise of the ready line, which rejects with
 * stderr if the process ends without that line.
 */
async function start(args: string[], env: Record<string, string> = {}, file = "bootstrap.mjs") {
  const [edge, backend] = await freePorts(2);
  const state = await mkdtemp(path.join(tmpdir(), "chameleon-state-"));
  const child = spawn(process.execPath, [path.join(root, "infra", file), ...args], {
    env: { ...process.env, EDGE_PORT: String(edge), BACKEND_PORT: String(backend), STATE_DIR: state, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  onTestFinished(() => {
    signalGroup(child, "SIGKILL");
    return rm(state, { recursive: true, force: true, maxRetries: 3 });
  });
  const ended = outcomeOf(child);
  const line = once(createInterface({ input: child.stdout! }), "line").then(([text]) => String(text));
  const ready = Promise.race([line, ended.then(({ stderr }) => Promise.reject(new Error(stderr)))]);
  ready.catch(() => {});
  return { child, edge, backend, ended, ready };
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  try {
    process.kill(-child.pid!, signal);
  } catch {
    // The group has ended already.
  }
}

const isRefused = (port: number | string) =>
  fetch(`http://127.0.0.1:${port}/healthz`).then(
    () => false,
    () => true,
  );

test("prints one ready line on stdout; SIGTERM ends everything", async () => {
  const { child, edge, backend, ended, ready } = await start(["start"]);
  expect(await ready).toBe(`ready http://127.0.0.1:${edge} key sk-chameleon-local`);
  expect(await Promise.all([isRefused(edge), isRefused(backend)])).toEqual([false, false]);

  child.kill("SIGTERM");
  const { code, stdout } = await ended;
  expect(code).toBe(0);
  expect(stdout.split("\n")).toHaveLength(2);
  expect(await Promise.all([isRefused(edge), isRefused(backend)])).toEqual([true, true]);
});

test("--json says where everything is; Ctrl-C in the middle of answers ends everything", async () => {
  const { child, edge, backend, ended, ready } = await start(["start", "--json"]);
  const told = JSON.parse(await ready);
  expect(told).toEqual({
    ready: true,
    edge: `http://127.0.0.1:${edge}`,
    key: "sk-chameleon-local",
    backends: [{ url: `http://127.0.0.1:${backend}`, pid: expect.any(Number) }],
  });
  const { post } = runningStack(told);
  const answers = Array.from({ length: 8 }, async () => {
    const response = await post("/v1/completions", { prompt: "Once", max_tokens: 400, stream: true });
    const reader = response.body!.getReader();
    await reader.read();
    return reader;
  });
  const readers = await Promise.all(answers);

  // The whole group gets the signal, as from a terminal, and the bootstrap passes it on, so its children get the signal twice.
  signalGroup(child, "SIGINT");
  expect((await ended).code).toBe(0);
  await Promise.allSettled(readers.map((reader) => reader.cancel()));
  expect(await Promise.all([isRefused(edge), isRefused(backend)])).toEqual([true, true]);
});

test.each(["starting backend…", "starting edge…"])("SIGTERM right after %j ends everything", async (progress) => {
  const { child, ended } = await start(["start"]);
  for await (const line of createInterface({ input: child.stderr! })) if (line === progress) break;
  child.stderr!.resume();
  child.kill("SIGTERM");
  // No ready line: the start was stopped before its end.
  expect(await ended).toMatchObject({ code: 0, stdout: "" });
});

test("the backend's crash is reported, and ends the edge", async () => {
  const { edge, ended, ready } = await start(["start", "--json"]);
  process.kill(JSON.parse(await ready).backends[0].pid, "SIGKILL");
  const { code, stderr } = await ended;
  expect(code).toBe(1);
  expect(stderr).toMatch(/^chameleon: the backend was ended by SIGKILL$/m);
  expect(await isRefused(edge)).toBe(true);
});

test("with several backends a killed one is started again while the other answers; SIGTERM ends all", async () => {
  const { child, ended, ready } = await start(["start", "--backends", "2", "--json"], { BACKEND_PORT: "0" });
  const { backends, post } = runningStack(JSON.parse(await ready));
  const ports = backends.map(({ url }) => new URL(url).port);
  expect(new Set(ports).size).toBe(2);
  process.kill(backends[0].pid, "SIGKILL");
  expect((await post("/v1/completions", { prompt: "Once", max_tokens: 1 })).status).toBe(200);
  await expect.poll(() => isRefused(ports[0]), patience).toBe(false);
  child.kill("SIGTERM");
  const { code, stderr } = await ended;
  expect(code).toBe(0);
  expect(stderr).toMatch(/was ended by SIGKILL; starting it again$/m);
  expect(await Promise.all(ports.map(isRefused))).toEqual([true, true]);
});

test("the backend ends with a start that was killed outright", async () => {
  const { child, backend, ready } = await start(["--json"], {}, "start.ts");
  await ready;
  child.kill("SIGKILL");
  await expect.poll(() => isRefused(backend), patience).toBe(true);
});

test.each(["EDGE_PORT", "BACKEND_PORT"])("a taken %s is one clear line, before anything starts", async (name) => {
  const { port } = new URL(await serve(() => {}));
  const { ended } = await start(["start"], { [name]: port });
  const stderr = `chameleon start: port ${port} is in use; set ${name} to another\n`;
  expect(await ended).toEqual({ code: 1, stdout: "", stderr });
});

test("a port that is taken while the backend starts is reported, and ends the start", async () => {
  const { child, edge, ended } = await start(["start"]);
  for await (const line of createInterface({ input: child.stderr! })) if (line === "starting backend…") break;
  child.stderr!.resume();
  await serve(() => {}, edge);
  const { code, stdout, stderr } = await ended;
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expect(stderr).toMatch(new RegExp(`^chameleon start: the edge did not start on port ${edge}: .*in use`, "m"));
});

test.each([
  [{ MODEL_DIR: "no-such-folder" }, /^chameleon start: .*no-such-folder.*\n$/],
  [
    { THREADS: "many" },
    /^chameleon backend: .*THREADS is "many".*\nchameleon start: the backend ended with 1 before it was ready$/ms,
  ],
])("%j ends the start, and stderr says why", async (env, message) => {
  const { ended } = await start(["start"], env);
  expect(await ended).toEqual({ code: 1, stdout: "", stderr: expect.stringMatching(message) });
});
