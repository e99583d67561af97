/** The environments of wrangler.toml against each other, the top level and what the Worker reads. */
import { writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { unstable_readConfig as readWranglerConfig } from "wrangler";
import { readConfig, type Variables } from "../../../../edge/config.ts";
import { pendingMigrations, readEnvironment } from "../../../../infra/deploy/environment.ts";
import { blocks } from "../../../support/documents.ts";
import { read, root } from "../../../support/project.ts";
import { temporaryFolder } from "../../../support/temporary-folder.ts";

const configFile = path.join(root, "wrangler.toml");

interface Config {
  name: string;
  vars: Record<string, string>;
  placement: unknown;
  migrations: unknown[];
  version_metadata: unknown;
  durable_objects: { bindings: { name: string; class_name: string }[] };
  containers?: { class_name: string; instance_type: string; image: string }[];
  kv_namespaces: { binding: string }[];
  r2_buckets: { binding: string; bucket_name: string }[];
  analytics_engine_datasets: { binding: string; dataset: string }[];
  compatibility_date: string;
  definedEnvironments: string[];
}
const configOf = (env?: string): Config => readWranglerConfig({ config: configFile, env }) as unknown as Config;
const top = configOf();
const names = top.definedEnvironments;

/** The settings that all environments must have in common. wrangler inherits only some of them. */
function commonOf(config: Config) {
  const bindings = (list: { binding: string }[]) => list.map(({ binding }) => binding);
  return {
    variables: Object.keys(config.vars).sort(),
    // Only one environment has containers.
    objects: config.durable_objects.bindings.filter(({ name }) => name !== "CONTAINERS"),
    namespaces: bindings(config.kv_namespaces),
    buckets: bindings(config.r2_buckets),
    datasets: bindings(config.analytics_engine_datasets),
    version: config.version_metadata,
    placement: config.placement,
    migrations: config.migrations,
    date: config.compatibility_date,
  };
}

test("there are dev, staging and production, each a Worker with storage of its own", () => {
  expect(names).toEqual(expect.arrayContaining(["dev", "staging", "production"]));
  const configs = names.map((name) => configOf(name));
  expect(configs.map(({ name }) => name)).toEqual(names.map((name) => `${top.name}-${name}`));
  expect(new Set(configs.map(({ r2_buckets: [bucket] }) => bucket.bucket_name)).size).toBe(names.length);
  expect(new Set(configs.map(({ analytics_engine_datasets: [{ dataset }] }) => dataset)).size).toBe(names.length);
});

test.each(names)(
  "%s has the top level's bindings, variables, migrations and placement, and the Worker starts on it",
  (name) => {
    const config = configOf(name);
    expect(commonOf(config)).toEqual(commonOf(top));
    expect(config.placement).toEqual({ mode: "off" });
    const containers = config.containers ? { CONTAINERS: { getByName: () => ({ fetch }) } } : {};
    expect(() => readConfig({ ...(config.vars as unknown as Variables), ...containers })).not.toThrow();
  },
);

test("backends on Cloudflare are containers of a bound class, in regions that exist", () => {
  const { vars, containers, durable_objects: objects } = configOf("containers");
  expect(containers).toMatchObject([{ class_name: "BackendContainer", instance_type: "standard-4" }]);
  expect(objects.bindings).toContainEqual({ name: "CONTAINERS", class_name: "BackendContainer" });
  expect(readEnvironment(configFile, "containers")).toMatchObject({ hasContainers: true, problems: [] });
  const created: unknown[] = [];
  const getByName = (name: string, options: object) => {
    created.push([name, options]);
    return { fetch: async () => new Response() };
  };
  const { backends, backendFetch } = readConfig({ ...(vars as unknown as Variables), CONTAINERS: { getByName } });
  for (const { url } of backends) void backendFetch(`${url}/readyz`, {});
  expect(created).toEqual([
    ["weur-1", { locationHint: "weur" }],
    ["enam-1", { locationHint: "enam" }],
  ]);
  expect(() => readConfig(vars as unknown as Variables)).toThrow("CONTAINERS");
});

test("a placeholder in place of a backend's address is a problem that names its section", () => {
  const { worker, migrations, problems } = readEnvironment(configFile, "production");
  expect(worker).toBe("chameleon-edge-production");
  expect(migrations).toEqual(top.migrations.map((one) => (one as { tag: string }).tag));
  expect(problems.join()).toContain("[env.production.vars]");
  expect(() => readEnvironment(configFile, "prod")).toThrow("dev, staging, production");
});

test.each([
  ["v1", ["v2", "v3"]],
  ["v3", []],
  [null, ["v1", "v2", "v3"]],
  ["gone", ["v1", "v2", "v3"]],
])("after %s these are pending: %s", (applied, pending) => {
  expect(pendingMigrations(["v1", "v2", "v3"], applied)).toEqual(pending);
});

test.each(blocks("infra/docs/deploy.md", "toml"))(
  "wrangler takes what deploy.md adds to an environment: %s",
  (block) => {
    const folder = temporaryFolder();
    const config = path.join(folder, "wrangler.toml");
    writeFileSync(config, `${read("wrangler.toml")}\n${block}`);
    const [, kind] = /^\[\[env\.production\.(\w+)\]\]/.exec(block)!;
    const production = readWranglerConfig({ config, env: "production" }) as unknown as Record<string, object[]>;
    expect(production[kind]).toEqual([expect.objectContaining({ binding: "BACKEND_VPC" })]);
  },
);
