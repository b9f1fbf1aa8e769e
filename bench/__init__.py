"""The figures of Gatepass: on real parts, as ratios to what nothing could beat in the same run."""
