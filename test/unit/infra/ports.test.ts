import { expect, test } from "vitest";
import { readPort } from "../../../infra/ports.ts";

test("reads a port, or its preset where it is unset or empty", () => {
  expect(readPort({ EDGE_PORT: "9000" }, "EDGE_PORT", 8787)).toBe(9000);
  expect(readPort({ EDGE_PORT: "0" }, "EDGE_PORT", 8787)).toBe(0);
  expect(readPort({}, "EDGE_PORT", 8787)).toBe(8787);
  expect(readPort({ EDGE_PORT: "" }, "EDGE_PORT", 8787)).toBe(8787);
});

test.each(["http", "-1", "65536", "80.5", "0x50", " 80"])("refuses %j, naming variable and value", (value) => {
  expect(() => readPort({ EDGE_PORT: value }, "EDGE_PORT", 8787)).toThrow(`EDGE_PORT is "${value}"`);
});
