/** What an image runs, without Docker: its command and its health check, with the files that it copies and the packages here. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { expect, onTestFinished, test } from "vitest";

const root = path.join(import.meta.dirname, "../..");
const dockerfile = readFileSync(`${root}/infra/Dockerfile`, "utf8");
const ignoreRules = readFileSync(`${root}/infra/Dockerfile.dockerignore`, "utf8")
  .split("\n")
  .filter((line) => line !== "" && !line.startsWith("#"));

/** Whether the builder sees a file of the project: the last rule that matches decides. */
function isInContext(file: string): boolean {
  const matches = (pattern: string) => pattern === "*" || file === pattern || file.startsWith(`${pattern}/`);
  return ignoreRules.findLast((rule) => matches(rule.replace("!", "")))!.startsWith("!");
}

// Outside a checkout (an unpacked archive) nothing is tracked.
test.skipIf(!existsSync(`${root}/.git`))(
  "the CPU's image starts by its command, gets ready and is healthy",
  async () => {
    const tracked = execFileSync("git", ["ls-files", "-z", "package.json", "shared", "gpu-backend"], { cwd: root });
    const files = tracked
      .toString()
      .split("\0")
      .filter((file) => file !== "" && isInContext(file));
    expect(files.filter((file) => /\/training\/|\/import\//.test(file))).toEqual([]);
    const app = mkdtempSync(path.join(tmpdir(), "chameleon-image-"));
    onTestFinished(() => rmSync(app, { recursive: true }));
    for (const file of files) if (existsSync(`${root}/${file}`)) cpSync(`${root}/${file}`, `${app}/${file}`);
    symlinkSync(`${root}/node_modules`, `${app}/node_modules`);

    const [, stage] = /^FROM \S+ AS cpu$(.*?)^FROM /ms.exec(dockerfile)!;
    const [probe, command] = [...stage.matchAll(/^ *CMD (\[.*\])$/gm)].map(([, json]) => JSON.parse(json) as string[]);
    const env = {
      PATH: `${path.dirname(process.execPath)}:${process.env.PATH}`,
      NODE_ENV: "production",
      BACKEND_PORT: "0",
    };
    const server = spawn(command[0], command.slice(1), { cwd: app, env, stdio: ["ignore", "pipe", "pipe"] });
    server.stderr.on("data", (text) => console.error(String(text)));
    onTestFinished(async () => {
      server.kill("SIGTERM");
      await once(server, "exit");
    });
    // The ready line comes once a token was generated.
    const [line] = await once(createInterface({ input: server.stdout }), "line");
    const { port } = new URL(JSON.parse(line).url);
    execFileSync(probe[0], probe.slice(1), { cwd: app, env: { ...env, BACKEND_PORT: port } });
  },
);
