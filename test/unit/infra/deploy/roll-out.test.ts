/** The order of a deployment, and the way back from every step of it. */
import { expect, test } from "vitest";
import { Interrupted } from "../../../../gpu-backend/command-line.ts";
import type { Platform, Shares } from "../../../../infra/deploy/platform.ts";
import { type RollOutParts, rollBack, rollOut } from "../../../../infra/deploy/roll-out.ts";
import { production } from "../../../support/production.ts";

const all = (version: string): Shares => [[version, 100]];

/** A platform in memory. `history` lists deployments, the newest first; "old" was uploaded with the migration `tag`. */
class FakePlatform implements Platform {
  history: Shares[];
  tag: string | null = "v2";
  present = ["BACKEND_SECRETS"];
  goesBack = true;
  readonly calls: string[] = [];

  constructor(history: Shares[] = [all("old")]) {
    this.history = [...history];
  }

  deployments = async () => this.history;
  migrationTag = async () => this.tag;
  secrets = async () => this.present;

  async upload() {
    this.calls.push("upload");
    return "new";
  }

  async setShares(shares: Shares) {
    this.calls.push(shares.map(([version, percentage]) => `${version} ${percentage}`).join(", "));
    this.history.unshift(shares);
  }

  async deployAll() {
    this.calls.push("deploy all");
    this.history.unshift([["new", 100]]);
    return "new";
  }

  async rollBack(version: string) {
    this.calls.push(`back to ${version}`);
    if (!this.goesBack) throw new Error("a migration lies between");
    this.history.unshift([[version, 100]]);
  }

  async applyRoutes() {
    this.calls.push("routes");
  }
}

function partsOf(platform: FakePlatform, overrides: Partial<RollOutParts> = {}): RollOutParts {
  return {
    environment: production,
    platform,
    smoke: async (version, isPicked) => void platform.calls.push(`smoke ${version}${isPicked ? " picked" : ""}`),
    say: () => undefined,
    confirm: async () => true,
    signal: new AbortController().signal,
    ...overrides,
  };
}

const wholeWay = ["upload", "old 100, new 0", "smoke new picked", "new 100", "smoke new", "routes"];

test("a version is tested before it gets requests, and again with all of them", async () => {
  const platform = new FakePlatform();
  expect(await rollOut(partsOf(platform))).toBe("new");
  expect(platform.calls).toEqual(wholeWay);
});

test.each(wholeWay.slice(0, -1).map((call, i) => ({ call, i })))(
  "a failure of step $i, `$call`, ends with the earlier version",
  async ({ i }) => {
    const platform = new FakePlatform();
    const push = platform.calls.push.bind(platform.calls);
    platform.calls.push = (call) => {
      const length = push(call);
      if (length === i + 1) throw new Error("broken");
      return length;
    };
    await expect(rollOut(partsOf(platform))).rejects.toThrow("broken");
    expect(platform.history[0]).toEqual(all("old"));
    // A failed upload has changed nothing, so nothing is undone.
    expect(platform.calls.at(-1)).toBe(i === 0 ? "upload" : "back to old");
  },
);

test("where routes cannot be applied, the version that was tested stays", async () => {
  const platform = new FakePlatform();
  platform.applyRoutes = async () => Promise.reject(new Error("no such zone"));
  await expect(rollOut(partsOf(platform))).rejects.toThrow("no such zone");
  expect(platform.history[0]).toEqual(all("new"));
});

test("the error of a stopped deployment says which version answers now", async () => {
  const stop = new AbortController();
  const platform = new FakePlatform();
  const smoke = async (_: string, __: boolean, signal: AbortSignal) => {
    stop.abort(new Interrupted("stopped"));
    signal.throwIfAborted();
  };
  const stopped = rollOut(partsOf(platform, { smoke, signal: stop.signal }));
  await expect(stopped).rejects.toThrow(Interrupted);
  await expect(stopped).rejects.toThrow("old answers all requests");
  expect(platform.history[0]).toEqual([["old", 100]]);
});

test("a deployment that is stopped or declined before the upload changes nothing", async () => {
  for (const overrides of [{ confirm: async () => false }, { signal: AbortSignal.abort() }]) {
    const platform = new FakePlatform();
    await expect(rollOut(partsOf(platform, overrides))).rejects.toThrow(Interrupted);
    expect(platform.calls).toEqual([]);
  }
});

test("a migration is named and asked about; its version, as one with containers, has all requests before its test", async () => {
  const migrating = new FakePlatform();
  migrating.tag = "v1";
  const asked: string[] = [];
  await rollOut(partsOf(migrating, { confirm: async (question) => asked.push(question) > 0 }));
  expect(asked[0]).toContain("It applies v2:");
  const ofContainers = new FakePlatform();
  await rollOut(partsOf(ofContainers, { environment: { ...production, hasContainers: true } }));
  for (const { calls } of [migrating, ofContainers]) expect(calls).toEqual(["deploy all", "smoke new"]);
});

test("if the platform refuses to roll back over a migration, the error says which version answers now", async () => {
  const platform = new FakePlatform();
  platform.tag = null;
  platform.goesBack = false;
  const smoke = async () => Promise.reject(new Error("no backend"));
  const failed = rollOut(partsOf(platform, { smoke }));
  await expect(failed).rejects.toThrow("no backend");
  await expect(failed).rejects.toThrow("new may still answer requests");
  expect(platform.calls.at(-1)).toBe("back to old");
});

test("the error of a failed first deployment says that there is no earlier version", async () => {
  const platform = new FakePlatform([]);
  const smoke = async () => Promise.reject(new Error("no backend"));
  await expect(rollOut(partsOf(platform, { smoke }))).rejects.toThrow("there is none to go back to");
  expect(platform.calls).toEqual(["deploy all"]);
});

test("a missing secret is named with the command that sets it, before anything is changed", async () => {
  const platform = new FakePlatform();
  platform.present = [];
  const command = "npx wrangler secret put BACKEND_SECRETS --env production";
  await expect(rollOut(partsOf(platform))).rejects.toThrow(command);
  expect(platform.calls).toEqual([]);
});

/** "old" and `version` share the requests; `version` has `share` percent. */
const shared = (version: string, share: number): Shares => [
  ["old", 100 - share],
  [version, share],
];

test("a deployment that was left half-way is named, and --rollback ends it", async () => {
  const platform = new FakePlatform([shared("new", 10), all("old"), all("older")]);
  await expect(rollOut(partsOf(platform))).rejects.toThrow(/old 90 %, new 10 %.*--rollback/);
  expect(await rollBack(partsOf(platform))).toBe("old");
  expect(await rollBack(partsOf(platform))).toBe("older");
});

test("--rollback never goes to a version that was itself taken back", async () => {
  /** The deployments of a roll-out, newest first. Before the roll-out "old" had all requests. */
  const steps = (version: string, ...percentages: number[]) =>
    percentages.map((share) => (share === 100 ? all(version) : shared(version, share)));
  const taken = [all("old"), ...steps("bad", 100, 0), all("old"), all("older")];
  expect(await rollBack(partsOf(new FakePlatform(taken)))).toBe("older");
  for (const next of [steps("new", 100, 10, 0), steps("new", 100)]) {
    expect(await rollBack(partsOf(new FakePlatform([...next, ...taken])))).toBe("old");
  }
});

test("--rollback skips a version that was only tested, and fails if there is no earlier one", async () => {
  expect(await rollBack(partsOf(new FakePlatform([all("new"), shared("new", 0)])))).toBe("old");
  await expect(rollBack(partsOf(new FakePlatform()))).rejects.toThrow("no earlier version");
});
