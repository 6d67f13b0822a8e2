// Plays a job's video while it is made, says how far it is, and keeps the history in this browser.
(() => {
  const KIND = 'video/mp4; codecs="avc1.640028,mp4a.40.2"';
  const KEPT = "asymtalker.history";
  const MOST_KEPT = 50;
  const POLL = 500; // milliseconds
  const $ = (id) => document.getElementById(`at-${id}`);
  let current = null; // { id, controller }
  let clicked = 0;
  let said = "";

  const kept = () => {
    try {
      return JSON.parse(localStorage.getItem(KEPT)) || [];
    } catch {
      return [];
    }
  };
  const keep = (list) => {
    try {
      localStorage.setItem(KEPT, JSON.stringify(list.slice(0, MOST_KEPT)));
    } catch {} // private windows may keep nothing
  };
  const note = (id, more) => {
    const rest = kept().filter((job) => job.id !== id);
    keep([{ ...kept().find((job) => job.id === id), id, ...more }, ...rest]);
    showHistory();
  };
  const forget = (id) => {
    keep(kept().filter((job) => job.id !== id));
    showHistory();
  };

  const problem = (sentence) => {
    $("problem").textContent = sentence || "";
    if (sentence) $("problem").focus();
  };
  const speak = (sentence) => {
    if (sentence !== said) $("spoken").textContent = said = sentence; // once, or a reader would never stop
  };
  const ask = async (path, options) => {
    const response = await fetch(path, options);
    if (response.status === 401) location.href = "/login";
    return response;
  };
  const ended = (job) => ["done", "failed", "cancelled"].includes(job.state);
  const seconds = (value) => (value < 90 ? `${Math.ceil(value)} s` : `${Math.ceil(value / 60)} min`);

  function showProgress(job) {
    const share = job.frames_total ? (100 * job.frames_done) / job.frames_total : 0;
    $("progress").hidden = ended(job);
    $("bar").value = share;
    if (job.state === "queued") {
      const others = job.ahead === 1 ? "1 video is" : `${job.ahead} videos are`;
      $("doing").textContent = `Waiting: ${others} made before yours, about ${seconds(job.eta_seconds)}.`;
      speak(`Waiting: ${others} made before yours.`);
    } else if (job.state === "running") {
      $("doing").textContent =
        `Making: ${job.frames_done} of ${job.frames_total} frames, about ${seconds(job.eta_seconds)} left.`;
      speak("Your video is being made and begins to play.");
    }
    $("remarks").textContent = job.remarks.join(" ");
  }

  async function watch(id, signal) {
    for (;;) {
      let job = null;
      try {
        const response = await ask(`/v1/jobs/${id}`, { signal });
        if (response.status === 404) {
          forget(id);
          return null;
        }
        if (response.ok) job = await response.json();
      } catch (error) {
        if (signal.aborted) return null;
        $("doing").textContent = "The server can't be reached: trying again.";
      }
      if (job) {
        showProgress(job);
        if (ended(job)) return job;
      }
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  }

  const once = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }));

  async function append(buffer, bytes, video) {
    for (;;) {
      try {
        buffer.appendBuffer(bytes);
        await once(buffer, "updateend");
        return;
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        if (video.currentTime > 10) {
          buffer.remove(0, video.currentTime - 5);
          await once(buffer, "updateend");
        } else await new Promise((resolve) => setTimeout(resolve, 500));
      }
    }
  }

  function showVideo() {
    const video = $("video");
    video.hidden = false;
    $("empty").hidden = true;
    return video;
  }

  function start(video) {
    video.play().catch(() => {
      video.muted = true; // browsers that want a click for sound
      video.play().catch(() => {});
    });
  }

  async function follow(id, signal) {
    const Source = window.ManagedMediaSource || window.MediaSource;
    if (!Source || !Source.isTypeSupported(KIND)) return false;
    const response = await ask(`/v1/jobs/${id}/stream`, { signal });
    if (!response.ok) return false;
    const video = showVideo();
    const source = new Source();
    video.disableRemotePlayback = true;
    video.muted = false;
    video.src = URL.createObjectURL(source);
    await once(source, "sourceopen");
    const buffer = source.addSourceBuffer(KIND);
    video.requestVideoFrameCallback?.(() => {
      window.asymtalker.firstFrame = clicked ? (performance.now() - clicked) / 1000 : null;
    });
    start(video);
    const reader = response.body.getReader();
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      if (signal.aborted) return false;
      await append(buffer, value, video);
    }
    source.endOfStream();
    return true;
  }

  async function begin(answer) {
    problem("");
    if (!answer) return;
    if (answer.error) return problem(answer.error);
    current?.controller.abort();
    const controller = new AbortController();
    current = { id: answer.id, controller };
    const { signal } = controller;
    $("download").hidden = true;
    $("remarks").textContent = "";
    $("progress").hidden = false;
    $("doing").textContent = "Beginning.";
    $("screen").scrollIntoView({ block: "nearest" }); // which on a phone lies below
    note(answer.id, { begun: answer.begun || Date.now(), state: "running" });
    const playing = follow(answer.id, signal).catch((error) => {
      if (!signal.aborted) console.warn("the stream ended early:", error.message);
      return false;
    });
    const job = await watch(answer.id, signal);
    if (signal.aborted) return;
    $("progress").hidden = true;
    if (!job) return problem("This video is gone: it was deleted, or has expired.");
    note(job.id, { state: job.state, seconds: job.seconds });
    if (job.state === "failed") return problem(job.error);
    if (job.state === "cancelled") {
      $("video").pause();
      $("remarks").textContent = "Stopped.";
      return speak("Stopped.");
    }
    speak("Your video is done.");
    offer(job.id);
    if (!(await playing) && !signal.aborted) {
      showVideo().src = `/v1/jobs/${job.id}/video`;
      start($("video"));
    }
  }

  function offer(id) {
    const link = $("download");
    link.href = `/v1/jobs/${id}/video`;
    link.download = `asymtalker-${id.slice(0, 8)}.mp4`;
    link.hidden = false;
  }

  async function show(id) {
    current?.controller.abort();
    $("progress").hidden = true;
    problem("");
    const response = await ask(`/v1/jobs/${id}`);
    if (!response.ok) {
      forget(id);
      return problem("This video is gone: it was deleted, or has expired.");
    }
    const job = await response.json();
    if (!ended(job)) return begin({ id, begun: kept().find((one) => one.id === id)?.begun });
    if (kept().find((one) => one.id === id)?.state !== job.state) note(id, { state: job.state, seconds: job.seconds });
    if (job.state !== "done") return problem(job.error || "It was stopped.");
    $("remarks").textContent = job.remarks.join(" ");
    showVideo().src = `/v1/jobs/${id}/video`;
    start($("video"));
    offer(id);
  }

  async function drop(id) {
    const response = await ask(`/v1/jobs/${id}`, { method: "DELETE" });
    if (!response.ok && response.status !== 404) return problem("It could not be deleted: try again.");
    problem("");
    if (current?.id === id || $("download").href.includes(id)) {
      current?.controller.abort();
      current = null;
      $("progress").hidden = $("download").hidden = true;
      $("remarks").textContent = "";
      $("video").removeAttribute("src");
      $("video").load();
      $("video").hidden = true;
      $("empty").hidden = false;
    }
    forget(id);
    speak("Deleted.");
  }

  function button(text, label, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = "at-button";
    made.textContent = text;
    made.setAttribute("aria-label", `${text}: ${label}`);
    made.addEventListener("click", act);
    return made;
  }

  function showHistory() {
    const list = $("history");
    if (!list) return;
    const jobs = kept();
    $("no-history").hidden = jobs.length > 0;
    list.replaceChildren(
      ...jobs.map((job) => {
        const item = document.createElement("li");
        const name = document.createElement("span");
        const when = new Date(job.begun).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
        const how = { done: job.seconds ? `${job.seconds.toFixed(1)} s` : "", failed: "failed", cancelled: "stopped" };
        name.textContent = `${when} ${how[job.state] ?? "being made"}`;
        item.append(name);
        if (!["failed", "cancelled"].includes(job.state)) item.append(button("Play", when, () => show(job.id)));
        item.append(button("Delete", when, () => drop(job.id)));
        return item;
      }),
    );
  }

  function ready() {
    showHistory();
    $("stop").addEventListener("click", () => current && ask(`/v1/jobs/${current.id}/cancel`, { method: "POST" }));
    const unfinished = kept().find((job) => !["done", "failed", "cancelled"].includes(job.state));
    if (unfinished) show(unfinished.id);
  }

  document.addEventListener(
    "click",
    (event) => {
      if (event.target.closest?.("#at-generate")) clicked = performance.now();
    },
    true,
  );
  for (const event of ["input", "change"])
    document.addEventListener(event, () => $("problem") && problem(""), true); // what is wrong may be put right by it
  window.asymtalker = { begin, show, firstFrame: null };
  const waiting = setInterval(() => {
    if ($("history")) {
      clearInterval(waiting);
      ready();
    }
  }, 50);
})();
