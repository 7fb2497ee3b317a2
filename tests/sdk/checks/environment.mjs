// sandbox.env: variables that later processes get.
import { Sandbox } from "@deno/sandbox";
import { assert, row } from "./lib.mjs";

export default [
  row("env.set", async (sandbox) => {
    await sandbox.env.set("GIVEN", "a b=c");
    assert.equal(await sandbox.sh`printf %s "$GIVEN"`.text(), "a b=c");
  }),
  row("env.get", async ({ env }) => {
    await env.set("READ", "ü");
    assert.equal(await env.get("READ"), "ü");
    assert.equal(await env.get("NO_SUCH_VARIABLE"), undefined);
    assert.equal(await env.get("HOME"), "/home/app");
  }),
  row("env.toObject", async ({ env }) => {
    await env.set("LISTED", "1");
    const all = await env.toObject();
    assert.equal(all.LISTED, "1");
    assert.equal(all.HOME, "/home/app");
    assert.ok(all.PATH.includes("/usr/bin"));
  }),
  row("env.delete", async (sandbox) => {
    await sandbox.env.set("GONE", "1");
    await sandbox.env.delete("GONE");
    await sandbox.env.delete("GONE");
    assert.equal(await sandbox.env.get("GONE"), undefined);
    assert.equal(await sandbox.sh`printf %s "\${GONE-unset}"`.text(), "unset");
  }),
  row("env is shared between connections", async (sandbox) => {
    const second = await Sandbox.connect(sandbox.id);
    await second.env.set("FROM_SECOND", "2");
    assert.equal(await sandbox.env.get("FROM_SECOND"), "2");
    await second.close();
  }, ["Sandbox.env"]),
];
