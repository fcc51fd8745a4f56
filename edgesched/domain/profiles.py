"""How fast the usual boards are: one table for boards that are emulated and for boards that are simulated.

So that what the simulator says of a fleet can be compared with real processes. A real board starts from the figures of
its own kind in `agents/boards`, and is measured from then on.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgesched.domain.device import BoardType, DeviceProfile

USUAL_PROFILES: Mapping[BoardType, DeviceProfile] = {
    # Service times are of a YOLO of the small sizes, 640 x 640, one picture at a time, with the Python call around it.
    # Slots are inferences that really run side by side. Three unlike boards: many slow slots, one fast one, two faster.
    BoardType.ATLAS: DeviceProfile(
        slots=2,  # its AI cores
        service_ms=8.0,  # between the 310 (about 13 ms) and the 310P (about 4); a 310B of 20 TOPS takes 34 ms
        link_mbps=800.0,  # gigabit Ethernet, what iperf leaves of it
        round_trip_ms=1.0,
    ),
    BoardType.RK3588: DeviceProfile(
        slots=3,  # NPU cores, one session each
        service_ms=27.0,  # int8, one core: 20.7 ms of NPU, and the part of the pipeline that does not overlap
        link_mbps=100.0,  # fast Ethernet
        round_trip_ms=2.0,
    ),
    BoardType.ORIN: DeviceProfile(
        slots=1,  # contexts share the GPU in time slices: two of them are not faster than one
        service_ms=12.0,  # Orin Nano and NX, FP16: 8 ms of GPU, and the part of the pipeline that does not overlap
        link_mbps=320.0,  # Wi-Fi
        round_trip_ms=3.0,
    ),
}
