/** What a deployment refuses before its checks, which take minutes, and before it calls anything outside this machine. */
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { type DeployOptions, deploy, goBack } from "../../../../infra/deploy/deploy.ts";
import type { Environment } from "../../../../infra/deploy/environment.ts";
import type { Gate } from "../../../../infra/deploy/gates.ts";
import { production } from "../../../support/production.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";

const options: DeployOptions = { dryRun: false, yes: true };
const signal = new AbortController().signal;
const gate = { name: "tests", run: vi.fn<Gate["run"]>() } satisfies Gate;

/** What the command writes to stderr. */
let written: string[];
beforeEach(() => {
  written = [];
  vi.spyOn(process.stderr, "write").mockImplementation((text) => written.push(String(text)) > 0);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

test.each<[string, Partial<Environment>, Partial<DeployOptions>, string]>([
  ["a placeholder of a backend", { problems: ["BACKEND_URLS names x"] }, {}, "BACKEND_URLS names x"],
  ["no address to test", {}, {}, "--url or EDGE_URL"],
  ["nobody to ask", { url: "https://edge" }, { yes: false }, "--yes"],
])("refused: %s", async (_, wrong, given, message) => {
  const started = deploy({ ...production, ...wrong }, { ...options, ...given }, [gate], signal);
  await expect(started).rejects.toThrow(message);
  expect(gate.run).not.toHaveBeenCalled();
});

test("a dry run lists everything that a deployment lacks, then runs its checks", async () => {
  let before = "";
  gate.run.mockImplementation(async () => {
    before = written.join("");
  });
  const empty = temporaryFolder();
  for (const name of ["HOME", "XDG_CONFIG_HOME", "MODEL_DIR", "PATH"]) vi.stubEnv(name, empty);
  vi.stubEnv("CLOUDFLARE_API_TOKEN", undefined);
  const wrong = { ...production, hasContainers: true, problems: ["BACKEND_URLS names x"] };
  expect(await deploy(wrong, { ...options, dryRun: true }, [gate], signal)).toBeNull();
  expect(gate.run).toHaveBeenCalledOnce();
  const missing = [...before.matchAll(/^missing for a deployment: (.{11})/gm)].map(([, start]) => start);
  expect(missing).toEqual(["no account:", "BACKEND_URL", "no artifact", "no Docker, ", "it is not k"]);
  expect(before).toContain("npx wrangler secret put BACKEND_SECRETS --env production");
});

test("a failed check ends the deployment; a rollback asks, too", async () => {
  gate.run.mockRejectedValue(new Error("mend the tests above"));
  await expect(deploy(production, { ...options, dryRun: true }, [gate], signal)).rejects.toThrow("mend the tests");
  await expect(goBack(production, { ...options, yes: false }, signal)).rejects.toThrow("--yes");
});
