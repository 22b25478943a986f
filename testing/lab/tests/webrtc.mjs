// Two ends of a data channel, both of them relayed, in one page: what one says, the other echoes.

export default async function ({ page, args }) {
  const body = "<!doctype html><title>WebRTC</title>";
  await page.route("http://localhost/**", (route) => route.fulfill({ contentType: "text/html", body }));
  await page.goto("http://localhost/");
  const { servers, ...how } = args;
  const seen = [];
  for (const server of servers) seen.push(await page.evaluate(talk, { server, ...how }));
  return seen;
}

async function talk({ server, messages, bytes, patience }) {
  const ends = [0, 1].map(
    () => new RTCPeerConnection({ iceServers: [server], iceTransportPolicy: "relay" }),
  );
  const [caller, callee] = ends;
  const errors = [];
  for (const [end, other] of [[caller, callee], [callee, caller]]) {
    end.onicecandidate = ({ candidate }) => candidate && other.addIceCandidate(candidate);
    end.onicecandidateerror = ({ errorCode, errorText, url }) => errors.push({ errorCode, errorText, url });
  }
  callee.ondatachannel = ({ channel }) => {
    channel.onmessage = ({ data }) => channel.send(data);
  };
  const channel = caller.createDataChannel("echo");
  channel.binaryType = "arraybuffer";
  const echoed = new Promise((resolve) => {
    let count = 0;
    channel.onmessage = ({ data }) => {
      const seen = new Uint8Array(data);
      if (seen.length !== bytes || seen.some((byte) => byte !== count % 256)) return;
      count += 1;
      if (count === messages) resolve(count);
    };
  });
  const opened = new Promise((resolve) => {
    channel.onopen = resolve;
  });
  const begun = performance.now();
  await caller.setLocalDescription();
  await callee.setRemoteDescription(caller.localDescription);
  await callee.setLocalDescription();
  await caller.setRemoteDescription(callee.localDescription);

  const work = async () => {
    await opened;
    const openedAfter = performance.now() - begun;
    for (let n = 0; n < messages; n += 1) channel.send(new Uint8Array(bytes).fill(n % 256));
    return { echoed: await echoed, openedAfter };
  };
  const timer = new Promise((resolve) => setTimeout(() => resolve({ echoed: 0 }), patience));
  const outcome = await Promise.race([work(), timer]);
  const candidates = await Promise.all(ends.map(selected));
  for (const end of ends) end.close();
  return { ...outcome, candidates, errors };

  // The local candidate of the pair in use.
  async function selected(end) {
    const stats = await end.getStats();
    const transport = [...stats.values()].find(({ type }) => type === "transport");
    const pair = stats.get(transport?.selectedCandidatePairId);
    const { candidateType, relayProtocol } = stats.get(pair?.localCandidateId) ?? {};
    return { candidateType, relayProtocol };
  }
}
