// Client: what is asked of the API host.
import process from "node:process";
import { Client, Sandbox } from "@deno/sandbox";
import { assert, rejection, row } from "./lib.mjs";

export default [
  row("client.sandboxes.create and connect", async () => {
    const client = new Client();
    const sandbox = await client.sandboxes.create({ labels: { made: "by-client" } });
    const second = await client.sandboxes.connect(sandbox.id, {});
    assert.equal(second.id, sandbox.id);
    await second.close();
    await sandbox.kill();
  }, ["client.sandboxes.create", "client.sandboxes.connect"]),
  row("client.sandboxes.list", async (sandbox) => {
    const client = new Client();
    const label = `listed-${process.pid}-${Date.now()}`;
    const other = await Sandbox.create({ labels: { label } });
    const [found, ...more] = await client.sandboxes.list({ labels: { label } });
    assert.equal(more.length, 0);
    assert.deepEqual([found.id, found.status, found.stoppedAt, found.labels], [other.id, "running", null, { label }]);
    assert.ok(found.createdAt instanceof Date && Math.abs(found.createdAt - Date.now()) < 600_000);
    assert.match(found.region, /^[a-z]{3}$/);
    await other.kill();
    const [stopped] = await client.sandboxes.list({ labels: { label } });
    assert.equal(stopped.status, "stopped");
    assert.ok(stopped.stoppedAt instanceof Date);
    assert.ok((await client.sandboxes.list()).some(({ id, status }) => id === sandbox.id && status === "running"));
    assert.deepEqual(await client.sandboxes.list({ labels: { label: "of nobody" } }), []);
  }),
  row("ApiError", async () => {
    const error = await rejection(new Client({ token: "ddo_wrong" }).sandboxes.list(), "ApiError");
    assert.equal(error.status, 401);
  }),
];
